"""Where the work is done: processes and devices, and the threads of one process."""

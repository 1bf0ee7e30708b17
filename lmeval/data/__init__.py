"""What is read: documents, rows of task data, sets of images, and where the files of the project lie."""

"""Make logs that look like those of web servers, machines, applications and builds, from a random generator."""

import json
import random

WORDS = [
    *("cache", "order", "invoice", "worker", "session", "index", "payment", "report", "user"),
    *("token", "queue", "backup", "image", "search", "mail", "stock", "sensor"),
]
HOSTS = ["web-01", "web-02", "db1", "mail", "gateway", "node-7", "raspberrypi", "build"]
MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
METHODS = ["handle", "save", "load", "run", "get", "fetch", "update", "send"]
AGENTS = [
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/119.0.0.0 Safari/537.36",
    "Mozilla/5.0 (X11; Linux x86_64; rv:109.0) Gecko/20100101 Firefox/118.0",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148",
    *("curl/7.88.1", "Googlebot/2.1", "python-requests/2.31.0", "-"),
]
PATHS = [
    *("/", "/index.html", "/api/v1/users/{n}", "/api/v2/orders?page={p}&limit=20", "/static/js/app.{h}.js", "/login"),
    *("/blog/{p}/", "/images/{n}.png", "/favicon.ico", "/wp-login.php", "/search?q={w}", "/health", "/robots.txt"),
]


def clock(seconds: int) -> str:
    return f"{seconds // 3600 % 24:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"


def address(rng: random.Random) -> str:
    return f"{rng.randint(1, 223)}.{rng.randint(0, 255)}.{rng.randint(0, 255)}.{rng.randint(1, 254)}"


def access_log(rng: random.Random) -> str:
    """Return 150 lines of a web server's combined log."""
    second, day, month = rng.randint(0, 80_000), rng.randint(1, 28), rng.choice(MONTHS)
    clients = [address(rng) for _ in range(12)]
    lines = []
    for _ in range(150):
        second += int(rng.expovariate(0.3))
        hexadecimal = f"{rng.getrandbits(32):08x}"
        path = rng.choice(PATHS).format(n=rng.randint(1, 9999), p=rng.randint(1, 40), h=hexadecimal, w=rng.choice(WORDS))
        status = rng.choices([200, 304, 301, 404, 500, 403], [70, 10, 6, 9, 2, 3])[0]
        method = rng.choices(["GET", "POST", "HEAD"], [85, 12, 3])[0]
        size = rng.randint(150, 60_000) if status == 200 else rng.randint(0, 600)
        stamp = f"{day:02}/{month}/2023:{clock(second)} +0000"
        request = f'"{method} {path} HTTP/1.1" {status} {size} "-" "{rng.choice(AGENTS)}"'
        lines.append(f"{rng.choice(clients)} - - [{stamp}] {request}")
    return "\n".join(lines)


def syslog_message(rng: random.Random, second: int) -> str:
    """Return what one of a Linux machine's services says."""
    pid, port, ip, word = rng.randint(300, 40_000), rng.randint(1024, 65_535), address(rng), rng.choice(WORDS)
    since = f"[{second}.{rng.randint(0, 999_999):06}]"
    person = rng.choice(["deploy", "root", "anna", "git", "admin", "test", "oracle"])
    return rng.choice(
        [
            f"sshd[{pid}]: Accepted publickey for {person} from {ip} port {port} ssh2",
            f"sshd[{pid}]: Failed password for invalid user {person} from {ip} port {port} ssh2",
            f"sshd[{pid}]: pam_unix(sshd:session): session opened for user {person}(uid={pid % 1000}) by (uid=0)",
            f"systemd[1]: Started {rng.choice(['Daily apt download activities', 'Cleanup of Temporary Directories'])}.",
            f"systemd[1]: {word}.service: Succeeded.",
            f"systemd[1]: {word}.service: Main process exited, code=exited, status={pid % 3}/FAILURE",
            f"CRON[{pid}]: (root) CMD (  cd / && run-parts --report /etc/cron.hourly)",
            f"kernel: {since} eth0: link up, 1000Mbps, full-duplex, lpa 0x{rng.getrandbits(16):04X}",
            f"kernel: {since} usb 1-{pid % 4}: new high-speed USB device number {pid % 90} using xhci_hcd",
            f"kernel: {since} Out of memory: Killed process {pid} ({word}) total-vm:{port * 40}kB, anon-rss:{port * 9}kB",
            f"dhclient[{pid}]: DHCPACK of {ip} from 10.0.0.1",
            f"ntpd[{pid}]: adjusting local clock by {rng.uniform(-1, 1):.6f}s",
            f"postfix/smtpd[{pid}]: connect from unknown[{ip}]",
        ]
    )


def syslog(rng: random.Random) -> str:
    """Return 120 lines of a Linux machine's syslog."""
    second, day, host = rng.randint(0, 70_000), f"{rng.choice(MONTHS)} {rng.randint(1, 28):2}", rng.choice(HOSTS)
    lines = []
    for _ in range(120):
        second += int(rng.expovariate(0.05))
        lines.append(f"{day} {clock(second)} {host} {syslog_message(rng, second)}")
    return "\n".join(lines)


def stack_trace(rng: random.Random, message: str) -> list[str]:
    """Return the lines of a Java or a Python stack trace that ends in (or starts with) `message`."""
    words = rng.choices(WORDS, k=rng.randint(2, 8))
    if rng.random() < 0.5:
        error = rng.choice(["IllegalStateException", "NullPointerException", "RuntimeException"])
        frames = (f"com.example.{w}.{w.title()}Service.{rng.choice(METHODS)}({w.title()}Service.java" for w in words)
        return [f"java.lang.{error}: {message}", *(f"\tat {frame}:{rng.randint(10, 600)})" for frame in frames)]
    lines = ["Traceback (most recent call last):"]
    for w in words:
        lines.append(
            f'  File "/srv/app/{w}/{rng.choice(WORDS)}.py", line {rng.randint(5, 700)}, in {rng.choice(METHODS)}_{w}'
        )
        lines.append(f"    return self.{w}.{rng.choice(METHODS)}({rng.choice(WORDS)}_id, timeout={rng.randint(1, 60)})")
    return [*lines, f"{rng.choice(['ConnectionError', 'KeyError', 'ValueError', 'TimeoutError'])}: {message}"]


def application_log(rng: random.Random) -> str:
    """Return 90 entries of an application's log, some with stack traces; two in five logs are JSON lines."""
    as_json, milli = rng.random() < 0.4, rng.randint(0, 80_000_000)
    day = f"2024-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}"
    lines = []
    for _ in range(90):
        milli += int(rng.expovariate(0.002))
        time = f"{clock(milli // 1000)}.{milli % 1000:03}"
        level = rng.choices(["INFO", "DEBUG", "WARN", "ERROR"], [60, 22, 12, 6])[0]
        word, number = rng.choice(WORDS), rng.randint(1, 99_999)
        message = rng.choice(
            [
                f"Processed {number} {word} items in {rng.randint(1, 4000)} ms",
                f"Starting {word} worker thread {rng.randint(1, 16)}",
                f"Request completed: id={rng.getrandbits(48):012x} status=200 duration={rng.uniform(0.5, 900):.1f}ms",
                f"Retrying {word} request (attempt {rng.randint(2, 5)} of 5)",
                f"Cache miss for key {word}:{number}",
                f"Connection to {rng.choice(HOSTS)}:{rng.choice([5432, 6379, 8080, 9092])} established",
                f"Loaded configuration from /etc/{word}/{word}.yml",
            ]
        )
        if level == "ERROR":
            cause = rng.choice(["connection reset by peer", "timeout after 30000 ms", "no such file or directory"])
            message = f"Failed to update {word} {number}: {cause}"
        if as_json:
            entry = {"timestamp": f"{day}T{time}Z", "level": level.lower(), "logger": f"app.{word}", "message": message}
            lines.append(json.dumps(entry))
        else:
            lines.append(
                f"{day} {time} {level:5} [{word}-{number % 16}] com.example.{word}.{word.title()}Service - {message}"
            )
            lines += stack_trace(rng, message) if level == "ERROR" else []
    return "\n".join(lines)


def build_log(rng: random.Random) -> str:
    """Return what a compilation and a test run print."""
    lines, total = [], rng.randint(20, 140)
    for k in range(1, total + 1):
        word, other, share = rng.choice(WORDS), rng.choice(WORDS), f"[{100 * k // total:3}%]"
        outcome = rng.choices(["PASSED", "FAILED", "SKIPPED"], [90, 4, 6])[0]
        place = f"src/{word}/{other}.c:{rng.randint(5, 900)}:{rng.randint(1, 80)}"
        kinds = [
            f"{share} Building CXX object src/{word}/CMakeFiles/{word}.dir/{other}.cpp.o",
            f"gcc -O2 -g -Wall -fPIC -Iinclude -DHAVE_CONFIG_H -c -o build/{word}_{other}.o src/{word}/{other}.c",
            f"{place}: warning: unused variable '{word}' [-Wunused-variable]",
            f"tests/test_{word}.py::test_{other}_{rng.choice(WORDS)} {outcome:30}{share}",
            f"make[{rng.randint(1, 3)}]: Entering directory '/build/{word}-{rng.randint(0, 9)}.{rng.randint(0, 20)}/src'",
        ]
        lines.append(rng.choices(kinds, [35, 25, 10, 20, 10])[0])
    return "\n".join([*lines, f"===== {rng.randint(20, 900)} passed in {rng.uniform(1, 300):.2f}s ====="])

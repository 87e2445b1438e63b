"""Programs that try to break out of the sandbox or to harm it, and what is to become of each.

`{port}`, `{pid}`, `{canary}`, `{abstract}` and `{repository}` stand for the host's server, process, file, socket and
repository, `{clone}`, `{add_key}` and the like for numbers of system calls.
"""

from typing import NamedTuple


class Hostile(NamedTuple):
    """A program, the kinds of error that it may end with (None: without), and a pattern in what it printed, followed
    by (timeout), (output) or (killed) where that is how it ended."""

    errors: tuple[str | None, ...]
    pattern: str
    code: str


FINE: tuple[None, ...] = (None,)
FAILED, STOPPED, ENDED = ("exception",), ("timeout",), ("exception", "killed", "timeout")
SLOW, FLOOD = ("exception", "timeout"), ("output", "timeout")  # on a busy machine the time is over first
DENIED = "PermissionError|OSError|ConnectionRefusedError|gaierror"

# fmt: off
PROGRAMS = {
    # files of the host that are open
    "locking a file of the host": Hostile(FINE, "^not locked$", """
import fcntl, os
one, other = open(os.__file__), open(os.__file__)
fcntl.flock(one, fcntl.LOCK_EX)
fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
print('not locked')
"""),
    "locking a part of a file of the host": Hostile(FINE, "^2$", """
import fcntl, os, struct
file = open(os.__file__)
fcntl.lockf(file, fcntl.LOCK_SH)
if os.fork() == 0:
    whole = struct.pack('hhqqi4x', fcntl.F_WRLCK, 0, 0, 0, 0)
    print(struct.unpack('hhqqi4x', fcntl.fcntl(file, fcntl.F_GETLK, whole))[0])
else:
    os.wait()
"""),
    "locking a file of the host for all who have it open": Hostile(FINE, "^2$", """
import fcntl, os, struct
one, other = open(os.__file__), open(os.__file__)
fcntl.fcntl(one, 37, struct.pack('hhqqi4x', fcntl.F_RDLCK, 0, 0, 0, 0))
whole = struct.pack('hhqqi4x', fcntl.F_WRLCK, 0, 0, 0, 0)
print(struct.unpack('hhqqi4x', fcntl.fcntl(other, 36, whole))[0])
"""),
    "lease of a file of the host": Hostile(FAILED, "PermissionError", """
import fcntl, os
fcntl.fcntl(open(os.__file__), fcntl.F_SETLEASE, fcntl.F_RDLCK)
"""),
    "notices of a directory of the host": Hostile(FAILED, "PermissionError", """
import fcntl, os
fcntl.fcntl(os.open('/usr/lib', os.O_RDONLY), fcntl.F_NOTIFY, fcntl.DN_ACCESS | fcntl.DN_MULTISHOT)
"""),
    "notices of a file of the host": Hostile(FINE, "^-1 1$", """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
print(libc.inotify_init1(0), ctypes.get_errno())
"""),
    "hint for the disk of a file of the host": Hostile(FAILED, "PermissionError", """
import fcntl, os, struct
fcntl.fcntl(open(os.__file__), 1036, struct.pack('Q', 5))
"""),
    "what of a file of the host is in memory": Hostile(FINE, "^-1 1$", """
import ctypes, mmap, os
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, *[ctypes.c_size_t] * 5]
at = libc.mmap(None, 4096, mmap.PROT_READ, mmap.MAP_SHARED, os.open(os.__file__, os.O_RDONLY), 0)
print(libc.mincore(ctypes.c_void_p(at), 4096, ctypes.create_string_buffer(1)), ctypes.get_errno())
"""),
    "what of a file of the host can be read without the disk": Hostile(FAILED, "Errno (38|95)", """
import os
os.preadv(os.open(os.__file__, os.O_RDONLY), [bytearray(1)], 0, os.RWF_NOWAIT)
"""),
    "what of a file can be written without the disk": Hostile(FAILED, "Errno (38|95)", """
import os
os.pwritev(os.open('x', os.O_RDWR | os.O_CREAT), [b'x'], 0, os.RWF_DSYNC)
"""),
    "taking a file of the host out of memory": Hostile(FINE, "^None -1 1 -1 1$", """
import ctypes, mmap, os
file = os.open(os.__file__, os.O_RDONLY)
print(os.posix_fadvise(file, 0, 0, os.POSIX_FADV_WILLNEED + 99), end=' ')  # pretended, or it would be invalid
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, *[ctypes.c_size_t] * 5]
at = libc.mmap(None, 4096, mmap.PROT_READ, mmap.MAP_SHARED, file, 0)
for advice in (20, 21):  # MADV_COLD, MADV_PAGEOUT
    print(libc.madvise(ctypes.c_void_p(at), 4096, advice), ctypes.get_errno(), end=' ')
"""),
    "flushing the host's disks": Hostile(FINE, "^-1 1$", """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
print(libc.syncfs(os.open(os.__file__, os.O_RDONLY)), ctypes.get_errno())
"""),
    # network
    "tcp to the host": Hostile(FAILED, DENIED, """
import socket
socket.create_connection(('127.0.0.1', {port}), 1)
"""),
    "tcp to the world": Hostile(FAILED, DENIED, """
import socket
socket.create_connection(('1.1.1.1', 53), 1)
"""),
    "udp": Hostile(FAILED, DENIED, """
import socket
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('1.1.1.1', 53))
"""),
    "name lookup": Hostile(FAILED, DENIED, """
import socket
socket.getaddrinfo('example.com', 80)
"""),
    "http": Hostile(SLOW, r"URLError|\(timeout\)", """
import urllib.request
urllib.request.urlopen('http://127.0.0.1:{port}', timeout=1)
"""),
    "raw socket": Hostile(FAILED, DENIED, """
import socket
socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)
"""),
    "netlink": Hostile(FAILED, DENIED, """
import socket
socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
"""),
    "virtual machine's host": Hostile(FAILED, DENIED, """
import socket
s = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
s.settimeout(1)
s.connect((2, 22))
"""),
    "abstract unix socket": Hostile(FAILED, DENIED, """
import socket
s = socket.socket(socket.AF_UNIX)
s.connect('\\0{abstract}')
"""),
    "unix datagram to the host": Hostile(FAILED, DENIED, """
import socket
a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
a.sendto(b'x', '\\0{abstract}')
"""),
    # files
    "read /etc/passwd": Hostile(FAILED, "FileNotFoundError", "print(open('/etc/passwd').read())"),
    "read the repository": Hostile(FAILED, "FileNotFoundError", "print(open('{repository}/pyproject.toml').read())"),
    "read a file of the host": Hostile(FAILED, "FileNotFoundError", "print(open('{canary}').read())"),
    "list the root": Hostile(FINE, r"^set\(\) \['ld.so.cache'\]$", """
import os, sys
shown = set(os.listdir('/')) - {path.split('/')[1] for path in sys.path if path}  # on the way to the interpreter
print({'home', 'tmp', 'var', 'proc', 'sys', 'run', 'boot', 'mnt'} & shown, os.listdir('/etc'))
"""),
    "write into the interpreter": Hostile(FAILED, "Errno 30|PermissionError", """
import json
open(json.__file__, 'a').write('x')
"""),
    "replace a system library": Hostile(FAILED, "OSError|PermissionError", """
import os
os.rename('/usr/lib', '/scratch/lib')
"""),
    "write into the root": Hostile(FAILED, "Errno 30|PermissionError", "open('/x', 'w')"),
    "make a device": Hostile(FAILED, "PermissionError", """
import os, stat
os.mknod('disk', stat.S_IFBLK | 0o666, os.makedev(8, 0))
open('disk', 'rb').read(1)
"""),
    "what others see of the devices": Hostile(FINE, "^30 30 30 30 30 30 30 30 b'' 16$", """
import os
open('/dev/null', 'w').write('x')
for path in ('/dev/null', '/dev/urandom'):
    with open(path, 'rb') as file:
        for change in (lambda: os.utime(path), lambda: os.utime(file.fileno(), (1, 1)), lambda: os.chmod(path, 0o666),
                       lambda: os.fchown(file.fileno(), -1, -1)):
            try: change()
            except OSError as error: print(error.errno, end=' ')
print(open('/dev/null', 'rb').read(), len(open('/dev/urandom', 'rb').read(16)))
"""),
    "memory of the kernel": Hostile(FAILED, "FileNotFoundError", "open('/dev/mem', 'rb').read(1)"),
    "escape through /proc": Hostile(FAILED, "FileNotFoundError", "print(open('/proc/1/environ', 'rb').read())"),
    "escape through /proc/self/root": Hostile(FAILED, "FileNotFoundError", """
import os
print(os.listdir('/proc/self/root/proc/1/root/home'))
"""),
    "list the mounts": Hostile(FINE, "^-1 38$", """
import ctypes, struct
libc = ctypes.CDLL(None, use_errno=True)
request = struct.pack('IIQQ', 24, 0, 2**64 - 1, 0)  # LSMT_ROOT
print(libc.syscall(458, request, ctypes.create_string_buffer(800), 100, 0), ctypes.get_errno())
"""),
    "name a mount": Hostile(FINE, "^-1 38$", """
import ctypes, os, struct
libc = ctypes.CDLL(None, use_errno=True)
state = ctypes.create_string_buffer(256)
libc.statx(-100, b'/usr/lib', 0, 0x4000, state)  # STATX_MNT_ID_UNIQUE
request = struct.pack('IIQQ', 24, 0, struct.unpack_from('Q', state, 144)[0], 0x3f)
print(libc.syscall(457, request, ctypes.create_string_buffer(4096), 4096, 0), ctypes.get_errno())
"""),
    "mount /proc": Hostile(FINE, "^-1 1$", """
import ctypes, os
os.mkdir('p')
libc = ctypes.CDLL(None, use_errno=True)
print(libc.mount(b'proc', b'p', b'proc', 0, None), ctypes.get_errno())
"""),
    "dot dot": Hostile(FINE, "^True False$", """
import os
print(sorted(os.listdir('/scratch/' + '../' * 40)) == sorted(os.listdir('/')), os.path.exists('/../' * 9 + '{canary}'))
"""),
    "symbolic link": Hostile(FAILED, "FileNotFoundError", """
import os
os.symlink('{canary}', 'x')
print(open('x').read())
"""),
    "chroot": Hostile(FAILED, "PermissionError", """
import os
os.chroot('/scratch')
"""),
    "open by handle": Hostile(FINE, "^-1 1$", """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
print(libc.open_by_handle_at(3, b'\\0' * 64, 0), ctypes.get_errno())
"""),
    # processes
    "fork bomb": Hostile(STOPPED, "", """
import os
while True:
    try: os.fork()
    except OSError: pass
"""),
    "fork bomb that leaves its session": Hostile(STOPPED, "", """
import os
while True:
    try:
        if os.fork() == 0: os.setsid()
    except OSError: pass
"""),
    "process that stays": Hostile(FINE, "^done$", """
import os, time
if os.fork() == 0:
    os.setsid()
    while True: time.sleep(1)
print('done')
"""),
    "kill the parent": Hostile((None, "exception"), "", """
import os, signal
os.kill(os.getppid(), signal.SIGKILL)
os.kill(os.getppid(), signal.SIGINT)
os.kill(os.getppid(), signal.SIGSTOP)
"""),
    "kill everything": Hostile((None, "exception", "killed"), "", """
import os, signal
os.kill(-1, signal.SIGKILL)
"""),
    "kill a process of the host": Hostile(FAILED, "ProcessLookupError", """
import os
os.kill({pid}, 9)
"""),
    "limits of process 1": Hostile(FAILED, "PermissionError", """
import resource
resource.prlimit(1, resource.RLIMIT_NOFILE, (3, 3))
"""),
    "slow down process 1": Hostile(FAILED, "PermissionError", """
import os
os.sched_setscheduler(1, os.SCHED_IDLE, os.sched_param(0))
"""),
    "slow down process 1, with all attributes": Hostile(FINE, "^-1 1$", """
import ctypes, os, struct
libc = ctypes.CDLL(None, use_errno=True)
idle = struct.pack('IIQiIQQQ', 48, os.SCHED_IDLE, 0, 0, 0, 0, 0, 0)
print(libc.syscall({sched_setattr}, 1, idle, 0), ctypes.get_errno())
"""),
    "trace process 1": Hostile(FINE, "^-1 1$", """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
print(libc.ptrace(16, 1, 0, 0), ctypes.get_errno())
"""),
    "become root": Hostile(FAILED, "PermissionError|Errno 22|Errno 30", """
import os
os.setuid(0)
os.chown('.', 0, 0)
open('/usr/lib/x', 'w')
"""),
    "new user namespace": Hostile(FINE, "^-1 1$", """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
print(libc.unshare(0x10000000), ctypes.get_errno())
"""),
    "clone into a user namespace": Hostile(FINE, "^-1 1$", """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
print(libc.syscall({clone}, 0x10000011, 0, 0, 0, 0), ctypes.get_errno())
"""),
    "segments of memory": Hostile(FINE, "^-1 (1|38)$", """
import ctypes, struct
libc = ctypes.CDLL(None, use_errno=True)
entry = struct.pack('IIII', 0, 0, 0xfffff, 0b1010001)
print(libc.syscall({modify_ldt}, 1, entry, 16), ctypes.get_errno())
"""),
    "filter for sockets": Hostile(FAILED, "PermissionError", """
import ctypes, socket, struct
code = ctypes.create_string_buffer(struct.pack('HBBI', 6, 0, 0, 1))
a, b = socket.socketpair()
a.setsockopt(socket.SOL_SOCKET, 26, struct.pack('HxxxxxxP', 1, ctypes.addressof(code)))  # SO_ATTACH_FILTER
"""),
    "run a shell": Hostile(FAILED, "FileNotFoundError", """
import os
os.execv('/bin/sh', ['sh', '-c', 'id'])
"""),
    "threads": Hostile(SLOW, "can't start new thread", """
import threading, time
for _ in range(1000): threading.Thread(target=time.sleep, args=(9,)).start()
"""),
    # signals and time
    "infinite loop": Hostile(STOPPED, r"^\(timeout\)$", "while True: pass"),
    "ignore every signal": Hostile(STOPPED, "", """
import signal
for n in set(range(1, 65)) - {9, 19, 32, 33}: signal.signal(n, signal.SIG_IGN)
while True: pass
"""),
    "sleep": Hostile(STOPPED, "", """
import time
time.sleep(3600)
"""),
    "stop itself": Hostile(STOPPED, "", """
import os, signal
os.kill(os.getpid(), signal.SIGSTOP)
"""),
    "endless C code": Hostile(("timeout", "exception", "killed"), "", "9 ** 9 ** 9"),
    "catch everything": Hostile(STOPPED, "", """
while True:
    try:
        while True: pass
    except BaseException: pass
"""),
    "endless exit handler": Hostile(STOPPED, "", """
import atexit
@atexit.register
def _():
    while True: pass
"""),
    "regular expression": Hostile(STOPPED, "", """
import re
re.match('(a+)+$', 'a' * 60 + 'b')
"""),
    "raise the limits": Hostile(FAILED, "ValueError|PermissionError", """
import resource
resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
"""),
    # memory and disk
    "one big block": Hostile(FAILED, "MemoryError", "x = bytearray(10 ** 10)"),
    "many small blocks": Hostile(SLOW, r"MemoryError|\(timeout\)", """
x = []
while True: x.append(bytearray(10 ** 6))
"""),
    "SysV memory": Hostile(FINE, "^-1 1$", """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
print(libc.shmget(1, 1 << 30, 0o1666), ctypes.get_errno())
"""),
    "file in memory": Hostile(FAILED, "PermissionError", """
import os
os.memfd_create('x')
"""),
    "one big file": Hostile(FAILED, "File too large", "open('x', 'wb').write(bytes(20 << 20))"),
    "fill the disk": Hostile(SLOW, r"No space left|\(timeout\)", """
for i in range(9):
    with open(str(i), 'wb') as f: f.write(bytes(15 << 20))
"""),
    "many files": Hostile(STOPPED, "", """
i = 0
while True:
    i += 1
    open(str(i), 'w').close()
"""),
    "deep directories": Hostile(FINE, "", """
import os
for i in range(900):
    os.mkdir('d' * 9)
    os.chdir('d' * 9)
"""),
    "directory that nobody may open": Hostile(FINE, "", """
import os
os.mkdir('d')
open('d/x', 'w').close()
os.chmod('d', 0)
os.chmod('.', 0)
"""),
    "memory of the kernel in attributes of files": Hostile(FINE, "^1 1 1 0$", """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
for i in range(40):
    with open(str(i), 'w') as file:
        ways = (libc.setxattr, b'%d' % i), (libc.lsetxattr, b'%d' % i), (libc.fsetxattr, file.fileno())
        errors = [ctypes.get_errno() for call, at in ways if call(at, b'user.a', bytes(60000), 60000, 0)]
print(*errors, sum(len(os.listxattr(name)) for name in os.listdir('.')))
"""),
    "memory of the kernel in attributes, the new way": Hostile(FINE, "^-1 38$", """
import ctypes, struct
libc = ctypes.CDLL(None, use_errno=True)
value = ctypes.create_string_buffer(60000)
print(libc.syscall(463, -100, b'.', 0, b'user.a', struct.pack('QII', ctypes.addressof(value), 60000, 0), 16),
      ctypes.get_errno())
"""),
    "zip bomb": Hostile((None, "exception", "killed", "timeout"), "", """
import zlib
bomb = zlib.compress(bytes(10 ** 7))
for _ in range(3): bomb = zlib.compress(bomb * 50)
for _ in range(4): bomb = zlib.decompress(bomb * 1)
"""),
    "zip file bomb": Hostile(SLOW, r"No space left|\(timeout\)", """
import io, zipfile
b = io.BytesIO()
with zipfile.ZipFile(b, 'w', zipfile.ZIP_DEFLATED) as z:
    for i in range(5): z.writestr(str(i), bytes(15 << 20))
zipfile.ZipFile(b).extractall()
"""),
    "deep recursion": Hostile(FAILED, "RecursionError", """
def f(): return f()
f()
"""),
    "deep recursion without a limit": Hostile(ENDED, "", """
import sys
sys.setrecursionlimit(10 ** 9)
class A:
    def __getattr__(self, name): return getattr(self, name + 'x')
repr(A().x)
"""),
    "deep expression": Hostile(ENDED, "", "eval('(' * 100000 + ')' * 100000)"),
    "wide number": Hostile(SLOW, "", "print(10 ** 10 ** 7)"),
    # output
    "flood": Hostile(FLOOD, r"\(output\)|\(timeout\)", "while True: print('x' * 10000)"),
    "flood without newlines": Hostile(FLOOD, r"\(output\)|\(timeout\)", """
import os
while True: os.write(2, b'x' * 65536)
"""),
    "flood from a child": Hostile(FLOOD, r"\(output\)|\(timeout\)", """
import os
os.fork()
while True: os.write(1, b'x' * 65536)
"""),
    "close the output": Hostile(STOPPED, "", """
import os, time
os.close(1)
os.close(2)
time.sleep(60)
"""),
    "not text": Hostile(FINE, "abc", """
import os
os.write(1, bytes(range(256)))
"""),
    # the sandbox's own code
    "write to all file descriptors": Hostile(FINE, "^end$", """
import os
for fd in range(3, 1024):
    try:
        os.write(fd, b'run' * 9)
        print(fd)
    except OSError: pass
print('end')
"""),
    "return into process 1's code": Hostile(FAILED, "OSError|Bad file", """
import os, sys
frame = sys._getframe()
while frame:
    for x in list(frame.f_locals.values()):
        if hasattr(x, 'control'): x.control.send(b'forged')
    frame = frame.f_back
"""),
    "ending that does nothing": Hostile((None, "exception"), "", """
import os, sys
os._exit = sys.exit = lambda status: None
"""),
    "exception that cannot be printed": Hostile(FAILED, "^E", """
class E(BaseException):
    def __str__(self): raise SystemExit(0)
raise E
"""),
    "crash": Hostile(("killed",), r"\(killed\)$", """
import ctypes
ctypes.string_at(0)
"""),
    "break builtins": Hostile(FAILED, "", """
import builtins, sys
builtins.print = builtins.open = builtins.len = None
sys.stdout = None
sys.modules.clear()
1 / 0
"""),
    "null bytes": Hostile(FAILED, "SyntaxError|ValueError", """
'\\0'.__class__
\0
"""),
    # what would be left for the next call
    "key of the kernel": Hostile(FINE, "^-1 1$", """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
print(libc.syscall({add_key}, b'user', b'note', b'secret', 6, -4), ctypes.get_errno())
"""),
    "message queue": Hostile(FINE, "^-1 1$", """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
print(libc.msgget(7, 0o1666), ctypes.get_errno())
"""),
    "flags of the scratch directory": Hostile(FAILED, "Errno 25", """
import fcntl, os, struct
fcntl.ioctl(os.open('.', os.O_RDONLY), 0x40086602, struct.pack('l', 0x40))  # FS_IOC_SETFLAGS, FS_NODUMP_FL
"""),
    "flags of the scratch directory, the new way": Hostile(FINE, "^-1 38$", """
import ctypes, struct
libc = ctypes.CDLL(None, use_errno=True)
print(libc.syscall(469, -100, b'.', struct.pack('QIIII', 0x80, 0, 0, 0, 0), 24, 0), ctypes.get_errno())
"""),
    "flags of the standard files": Hostile(FINE, r"^\d+ 1 1$", """
import fcntl, os
flags = [fcntl.fcntl(fd, fcntl.F_GETFL) for fd in range(3)]
for fd in range(3): fcntl.fcntl(fd, fcntl.F_SETFL, os.O_NONBLOCK | os.O_APPEND)
print(*flags)
"""),
    "attributes of the scratch directory": Hostile(FAILED, "PermissionError", """
import os
os.utime('.', (123, 456))
os.chmod('.', 0o777)
os.setxattr('.', 'user.note', b'secret')
"""),
    "open files and pipes": Hostile(FAILED, "Too many open files", """
import os, socket
kept = []
while True: kept.append((os.pipe(), socket.socketpair()))
"""),
    "another interpreter": Hostile(STOPPED, "", """
import subprocess, sys
subprocess.run([sys.executable, '-S', '-c', 'while True: pass'])
"""),
    "pool of too many processes": Hostile(SLOW, "", """
import multiprocessing, time
multiprocessing.Pool(64).map(time.sleep, [9] * 64)
"""),
    "memory and semaphores with a name": Hostile(FINE, "^40000000 True$", """
import multiprocessing.shared_memory, os, _multiprocessing
blocks = [multiprocessing.shared_memory.SharedMemory(f'b{i}', create=True, size=10 ** 7) for i in range(4)]
_multiprocessing.SemLock(1, 1, 1, '/kept', False)
print(sum(os.stat(f'/scratch/b{i}').st_size for i in range(4)), 'sem.kept' in os.listdir('.'))
os._exit(0)
"""),
    "asynchronous code that never ends": Hostile(STOPPED, "", """
import asyncio
asyncio.run(asyncio.sleep(1000))
"""),
}

"""Programs that try to break out of the sandbox, or to be scored without solving the task; harmless where they succeed.

Names in ``<...>`` are filled in by the runner. A script starts with ``TRY`` and prints ``held`` where its attack fails.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Attack:
    """A program and what it attacks.

    Attributes:
        program: The program.
        kind: ``"script"`` prints ``held``, ``"score"`` is to be scored by hidden tests, ``"output"`` is to print ``x``.
        seconds: Time limit of the program.
    """

    program: str
    kind: str = "script"
    seconds: float = 10.0


TRY = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
def refused(action, *kinds):
    try:
        result = action()
    except kinds or OSError:
        return True
    print('breach:', result)
    return False
"""
ATTACKS = {
    "fork bomb": Attack("""
held = all([refused(os.fork, OSError) for _ in range(20)])
print('held' * held)
"""),
    "memory bomb": Attack("""
print('held' * refused(lambda: len(bytearray(4 << 30)), MemoryError))
"""),
    "memory in small pieces": Attack("""
kept = []
try:
    while len(kept) < 4096:
        kept.append(bytearray(1 << 20))
except MemoryError:
    kept = []
    print('held')
"""),
    "infinite loop": Attack(
        """
while True:
    pass
""",
        "score",
        seconds=0.5,
    ),
    "infinite output": Attack(
        """
while True:
    print('x' * 100000)
""",
        "output",
        seconds=20.0,
    ),
    "infinite errors": Attack(
        """
import sys
while True:
    print('x' * 100000, file=sys.stderr)
""",
        "output",
        seconds=20.0,
    ),
    "sleeping forever": Attack(
        """
import time
time.sleep(10 ** 6)
""",
        "score",
        seconds=0.5,
    ),
    "huge integer": Attack(
        """
def secret(n):
    return 9 ** 9 ** 9
""",
        "score",
        seconds=0.5,
    ),
    "huge integer as result": Attack(
        """
def secret(n):
    return 1 << 50_000_000
""",
        "score",
    ),
    "deep recursion": Attack(
        """
import sys
sys.setrecursionlimit(10 ** 9)
def secret(n):
    return secret(n) + 1
""",
        "score",
        seconds=2.0,
    ),
    "compiler recursion": Attack(
        """
def secret(n):
    return eval('(' * 100000 + '1' + ')' * 100000)
""",
        "score",
        seconds=5.0,
    ),
    "zip bomb in memory": Attack(
        """
import zlib
z = zlib.compressobj(9, 8, -15)
block = z.compress(bytes(1 << 24)) + z.flush(zlib.Z_FULL_FLUSH)
print('held' * refused(lambda: len(zlib.decompressobj(-15).decompress(block * 128)), MemoryError))
""",
        seconds=20.0,
    ),
    "zip bomb on disk": Attack("""
import zlib
bomb = zlib.compress(bytes(1 << 24), 9)
file = open('big', 'wb')
def unpack():
    for _ in range(8):
        file.write(zlib.decompress(bomb))
    return file.tell()
print('held' * refused(unpack))
"""),
    "filling /tmp": Attack("""
def fill():
    for n in range(40):
        open(f'/tmp/f{n}', 'wb').write(bytes(8 << 20))
    return n
print('held' * refused(fill))
"""),
    "filling shared memory": Attack("""
print('held' * refused(lambda: open('/dev/shm/x', 'wb').write(b'x')))
"""),
    "all descriptors": Attack("""
print('held' * refused(lambda: len([os.pipe() for _ in range(5000)])))
"""),
    "all threads": Attack("""
import threading, time
try:
    for n in range(500):
        threading.Thread(target=time.sleep, args=(1,), daemon=True).start()
    print('breach')
except (RuntimeError, MemoryError):
    print('held')
"""),
    "raising the limits": Attack("""
import resource
print('held' * refused(lambda: resource.setrlimit(resource.RLIMIT_AS, (-1, -1)), ValueError))
"""),
    "killing the parent": Attack("""
held = all([refused(lambda: os.kill(p, 9)) for p in (os.getppid(), 1, 2, -1, 0)])
print('held' * held)
"""),
    "tracing the parent": Attack("""
held = libc.ptrace(16, os.getppid(), 0, 0) == -1 and refused(lambda: open(f'/proc/{os.getppid()}/mem', 'r+b'))
print('held' * held)
"""),
    "ignoring signals": Attack(
        """
import signal
for number in range(1, 64):
    try:
        signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
while True:
    pass
""",
        "score",
        seconds=0.5,
    ),
    "thread that outlives": Attack(
        """
import threading, time
open('/proc/self/comm', 'w').write('<mark>')
threading.Thread(target=time.sleep, args=(60,)).start()
def secret(n):
    return n
""",
        "score",
    ),
    "daemon by double fork": Attack("""
import os, time
open('/proc/self/comm', 'w').write('<mark>')
try:
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(60)
        os._exit(0)
except OSError:
    print('held')
"""),
    "daemon by subprocess": Attack("""
import subprocess
print('held' * refused(lambda: subprocess.Popen(['/bin/sleep', '60'], start_new_session=True)))
"""),
    "leaving by exec": Attack("""
print('held' * refused(lambda: os.execv('/bin/true', ['true'])))
"""),
    "core dump": Attack(
        """
import os
os.abort()
""",
        "score",
    ),
    "network": Attack("""
import socket
print('held' * refused(lambda: socket.create_connection(('127.0.0.1', <port>), 1)))
"""),
    "name look-up": Attack("""
import socket
print('held' * refused(lambda: socket.gethostbyname('localhost.test')))
"""),
    "datagrams": Attack("""
import socket
print('held' * refused(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)))
"""),
    "unix sockets": Attack("""
import socket
print('held' * refused(lambda: socket.socket(socket.AF_UNIX)))
"""),
    "writing outside": Attack("""
places = ['<folder>', '/', '/usr', '/usr/lib', '/etc', '/root', '/home', '/dev', '/sandbox', '/var/tmp']
held = all([refused(lambda: open(place + '/trace', 'w').write('x')) for place in places])
print('held' * held)
"""),
    "deleting outside": Attack("""
print('held' * refused(lambda: os.unlink('<folder>/kept')))
"""),
    "reading home and the system": Attack("""
places = ['<folder>/kept', '/etc/passwd', '/etc/shadow', '/proc/kcore', '/dev/sda', '/dev/mem']
held = all([refused(lambda: open(place, 'rb').read(9)) for place in places])
homes = [place for place in ('/home', '/var', '/mnt', '/srv', '/run') if os.path.exists(place)]
print('held' * (held and not homes), *homes)
"""),
    "reading the environment": Attack("""
import os
found = [p for p in os.listdir('/proc') if p.isdigit()]
texts = [str(dict(os.environ))]
for p in found:
    try:
        texts.append(str(open(f'/proc/{p}/environ', 'rb').read()))
    except OSError:
        pass
print('breach' if any('<secret>' in text for text in texts) else 'held')
"""),
    "reading /proc": Attack("""
import os
print('held' if max(int(p) for p in os.listdir('/proc') if p.isdigit()) < 20 else 'breach')
"""),
    "links out of the sandbox": Attack("""
os.symlink('<folder>/kept', 'read')
os.symlink('/usr/trace', 'write')
held = refused(lambda: open('read').read()) and refused(lambda: open('write', 'w').write('x'))
held = held and refused(lambda: os.link('/proc/self/exe', 'hard'))
print('held' * held)
"""),
    "overwriting the interpreter": Attack("""
held = refused(lambda: open('/proc/self/exe', 'r+b')) and refused(lambda: open(os.__file__, 'a'))
print('held' * held)
"""),
    "new namespaces": Attack("""
print('held' * all([libc.unshare(flag) == -1 for flag in (0x10000000, 0x20000, 0x40000000, 0x20000000)]))
"""),
    "mounting": Attack("""
print('held' * (libc.mount(b'none', b'/tmp', b'tmpfs', 0, None) == -1))
"""),
    "rare system calls": Attack("""
numbers = <numbers>[os.uname().machine]
held = all([libc.syscall(number, 0, 0, 0, 0, 0) == -1 and ctypes.get_errno() == 1 for number in numbers])
print('held' * held)
"""),
    "process memory": Attack("""
print('held' * (libc.process_vm_readv(os.getppid(), 0, 0, 0, 0, 0) == -1))
"""),
    "becoming root": Attack("""
print('held' * (refused(lambda: os.setuid(0)) and os.getuid() != 0))
"""),
    "exit in the function": Attack(
        """
import os
def secret(n):
    os._exit(0)
""",
        "score",
    ),
    "exit at the top": Attack(
        """
import sys
sys.exit(0)
""",
        "score",
    ),
    "exit at exit": Attack(
        """
import atexit, os
atexit.register(os._exit, 0)
def secret(n):
    return 1
""",
        "score",
    ),
    "reading the tests": Attack(
        """
import gc, os, re, sys
def secret(n):
    texts = [repr(sys.argv), repr(dict(os.environ))]
    frame = sys._getframe()
    while frame:
        texts.append(repr(frame.f_locals))
        texts.append(repr(frame.f_globals))
        frame = frame.f_back
    texts += [thing for thing in gc.get_objects() if isinstance(thing, str)]
    for folder, _, files in [*os.walk('/tmp'), *os.walk('/proc/self/fd')]:
        for file in files:
            try:
                texts.append(open(os.open(folder + '/' + file, os.O_RDONLY | os.O_NONBLOCK)).read())
            except Exception:
                pass
    found = re.search('9182' + '73645', ' '.join(texts))
    return int(found[0]) if found else 0
""",
        "score",
    ),
    "patching builtins": Attack(
        """
import builtins
builtins.abs = lambda x: 0
builtins.all = builtins.isinstance = lambda *a: True
builtins.len = lambda x: 1
def abs(x):
    return 0
def all(x):
    return True
def secret(n):
    return 0
""",
        "score",
    ),
    "patching assert": Attack(
        """
import builtins, sys
class AssertionError(BaseException):
    def __new__(cls, *a):
        import os
        os._exit(0)
builtins.AssertionError = AssertionError
sys.excepthook = lambda *a: None
def secret(n):
    return 0
""",
        "score",
    ),
    "result equal to everything": Attack(
        """
class Any:
    __eq__ = __lt__ = __gt__ = lambda self, other: True
    __sub__ = __abs__ = __mul__ = lambda self, *a: self
    __hash__ = None
def secret(n):
    return Any()
""",
        "score",
    ),
    "number equal to everything": Attack(
        """
class Any(int):
    __eq__ = lambda self, other: True
    __sub__ = lambda self, other: 0
def secret(n):
    return Any(0)
""",
        "score",
    ),
    "result that runs when unpickled": Attack(
        """
import os
class Bomb:
    def __reduce__(self):
        return os._exit, (0,)
    __del__ = lambda self: os._exit(0)
def secret(n):
    return Bomb()
""",
        "score",
    ),
    "tampered modules": Attack(
        """
import sys, types
for name in ('json', 'operator', 'math', 'struct', '_socket', 'unittest', 'pytest'):
    fake = types.ModuleType(name)
    fake.loads = fake.dumps = fake.eq = lambda *a, **k: '918273645'
    sys.modules[name] = fake
open('/tmp/math.py', 'w').write('fabs = lambda x: 0')
sys.path.insert(0, '/tmp')
def secret(n):
    return 0
""",
        "score",
    ),
    "printing the verdict": Attack(
        """
import os, json
frame = json.dumps('').encode()
frame = len(frame).to_bytes(8, 'big') + frame
def secret(n):
    for fd in range(256):
        try:
            os.write(fd, frame * 9)
        except OSError:
            pass
    print('3 passed, 0 failed')
    return 0
""",
        "score",
    ),
    "answering in the protocol": Attack(
        """
import sys
def secret(n):
    frame = sys._getframe()
    while 'connection' not in frame.f_locals:
        frame = frame.f_back
    link, send = frame.f_locals['connection'], sys.modules['cell.wire'].send
    for _ in range(9):
        send(link, ['value', ['plain', True], []])
        send(link, ['error', ['StopIteration'], '', []])
    return 0
""",
        "score",
    ),
    "broken protocol": Attack(
        """
import os
def secret(n):
    text = b'[' * 200000
    for fd in range(3, 64):
        try:
            os.write(fd, len(text).to_bytes(8, 'big') + text)
        except OSError:
            pass
    return 0
""",
        "score",
    ),
    "closing every descriptor": Attack(
        """
import os
os.closerange(0, 256)
def secret(n):
    return 0
""",
        "score",
    ),
    "object that passes every comparison": Attack(
        """
class Any:
    __eq__ = __lt__ = __gt__ = __le__ = __ge__ = __contains__ = __instancecheck__ = lambda self, other: True
    __sub__ = __rsub__ = __mod__ = __xor__ = lambda self, other: 0
    __getattr__ = __call__ = lambda self, *a, **k: self
    __bool__ = lambda self: True
def secret(n):
    return Any()
""",
        "score",
    ),
    "object that equals numbers only": Attack(
        """
class Any:
    __eq__ = lambda self, other: isinstance(other, int)
def secret(n):
    return Any()
""",
        "score",
    ),
    "class that pretends to be another": Attack(
        """
class int(int):
    __eq__ = lambda self, other: True
    __hash__ = None
int.__module__ = 'builtins'
class AssertionError(StopIteration):
    pass
AssertionError.__module__ = 'builtins'
def secret(n):
    if n % 2:
        raise AssertionError
    return int(0)
""",
        "score",
    ),
    "lying about the time": Attack(
        """
import sys, time
sys.modules['cell.peer'].perf_counter = lambda: 0.0
def secret(n):
    time.sleep(1)
    return n
""",
        "score",
        seconds=0.5,
    ),
    "changing what is shared": Attack(
        """
import gc
def secret(n):
    for thing in gc.get_objects():
        if hasattr(thing, 'shared') and hasattr(thing, 'objects'):
            thing.encode = lambda value, depth=0: ['yours', 0]
            thing.shared[0] = [True]
            thing.keeps = True
    return 0
""",
        "score",
    ),
}

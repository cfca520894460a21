"""Takes from the calling process, for good, what a model's program has no need of."""

from __future__ import annotations

import ctypes
import os
import resource
import struct
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

#: Numbers of system calls on x86-64 and on 64-bit ARM; -1 where there is none.
CALLS: dict[str, tuple[int, int]] = {
    # Other processes: their memory, descriptors, signals and priorities.
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
    "pidfd_open": (434, 434), "pidfd_getfd": (438, 438), "pidfd_send_signal": (424, 424),
    "process_madvise": (440, 440), "tkill": (200, 130), "rt_sigqueueinfo": (129, 138),
    "setpriority": (141, 140), "sched_setaffinity": (203, 122), "sched_setscheduler": (144, 119),
    "sched_setparam": (142, 118), "sched_setattr": (314, 274), "ioprio_set": (251, 30), "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    # New processes and programs.
    "fork": (57, -1), "vfork": (58, -1), "execve": (59, 221), "execveat": (322, 281),
    # Namespaces, mounts, roots.
    "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41),
    "chroot": (161, 51), "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430),
    "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433), "mount_setattr": (442, 442),
    "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265), "fanotify_init": (300, 262),
    # Parts of the kernel with a history.
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282), "keyctl": (250, 219),
    "add_key": (248, 217), "request_key": (249, 218), "io_uring_setup": (425, 425), "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427), "personality": (135, 92), "modify_ldt": (154, -1), "iopl": (172, -1),
    "ioperm": (173, -1), "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106),
    "kexec_load": (246, 104), "kexec_file_load": (320, 294), "reboot": (169, 142), "swapon": (167, 224),
    "swapoff": (168, 225), "syslog": (103, 116), "acct": (163, 89), "quotactl": (179, 60),
    # Clocks and names of the machine.
    "settimeofday": (164, 170), "clock_settime": (227, 112), "clock_adjtime": (305, 266), "adjtimex": (159, 171),
    "sethostname": (170, 161), "setdomainname": (171, 162),
    # Network, and memory that no limit counts. socketpair stays: event loops need it.
    "socket": (41, 198), "shmget": (29, 194), "msgget": (68, 186), "semget": (64, 190), "mq_open": (240, 180),
    "memfd_create": (319, 279),
}  # fmt: skip
_CLONE, _CLONE3, _KILL, _TGKILL, _PRLIMIT = (56, 220), (435, 435), (62, 129), (234, 131), (302, 261)
_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16  # Offsets in seccomp_data; the low half of an argument comes first.
_ALLOW, _KILL_PROCESS, _REFUSE, _UNKNOWN = 0x7FFF0000, 0x80000000, 0x00050000 | 1, 0x00050000 | 38
_CLONE_THREAD = 0x10000


def seccomp_program(machine: str, pid: int) -> bytes | None:
    """The filter for one process as classic BPF, or ``None`` for a machine whose system calls are not listed here.

    A listed call fails with EPERM; signals reach the process itself alone, limits are set for itself alone, and a
    clone makes a thread or nothing. Calls of another architecture kill the process.
    """
    if machine not in _MACHINES:
        return None
    column, architecture = _MACHINES[machine]
    lines = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL_PROCESS),
        (_LOAD, 0, 0, _NUMBER),
        (_AT_LEAST, 0, 1, 0x40000000),  # The x32 numbers of x86-64.
        (_RETURN, 0, 0, _REFUSE),
        (_EQUAL, 0, 1, _CLONE3[column]),
        (_RETURN, 0, 0, _UNKNOWN),  # libc then uses clone, whose flags can be seen here.
        (_EQUAL, 0, 4, _CLONE[column]),
        (_LOAD, 0, 0, _FIRST_ARGUMENT),
        (_ANY_BIT, 1, 0, _CLONE_THREAD),
        (_RETURN, 0, 0, _REFUSE),
        (_RETURN, 0, 0, _ALLOW),
    ]
    for call, itself in ((_KILL, (pid,)), (_TGKILL, (pid,)), (_PRLIMIT, (0, pid))):
        allowed = [(_EQUAL, len(itself) - place, 0, value) for place, value in enumerate(itself)]
        block = [(_LOAD, 0, 0, _FIRST_ARGUMENT), *allowed, (_RETURN, 0, 0, _REFUSE), (_RETURN, 0, 0, _ALLOW)]
        lines += [(_EQUAL, 0, len(block), call[column]), *block]
    for number in sorted(numbers[column] for numbers in CALLS.values() if numbers[column] >= 0):
        lines += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _REFUSE)]
    lines.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("HBBI", *line) for line in lines)


def confine(limits: Mapping[str, Any]) -> None:
    """Set the limits of this process, which neither it nor anything it starts can lift again.

    Args:
        limits: ``cpu`` in seconds, ``memory`` (address space) and ``file`` in bytes, ``open_files``, ``processes``
            (``None`` for no limit), and ``folder``: unless ``None``, the one place where files may be written.
    """
    for name, value in (
        (resource.RLIMIT_CPU, limits["cpu"]),
        (resource.RLIMIT_AS, limits["memory"]),
        (resource.RLIMIT_FSIZE, limits["file"]),
        (resource.RLIMIT_NOFILE, limits["open_files"]),
        (resource.RLIMIT_NPROC, limits["processes"]),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
    ):
        if value is not None:
            ceiling = resource.getrlimit(name)[1]
            value = value if ceiling == resource.RLIM_INFINITY else min(value, ceiling)
            resource.setrlimit(name, (value, value))
    libc = ctypes.CDLL(None, use_errno=True)
    end_with_parent()
    _done(libc.prctl(38, 1, 0, 0, 0))  # PR_SET_NO_NEW_PRIVS
    if limits["folder"] is not None:
        _landlock(libc, limits["folder"])
    program = seccomp_program(os.uname().machine, os.getpid())
    if program is not None:
        code = ctypes.create_string_buffer(program, len(program))
        header = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(program) // 8, ctypes.addressof(code)))
        _done(libc.prctl(22, 2, header, 0, 0))  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER


def end_with_parent() -> None:
    """Be killed when the process that has started this one ends, however it ends; what this one starts asks again."""
    _done(ctypes.CDLL(None, use_errno=True).prctl(1, 9, 0, 0, 0))  # PR_SET_PDEATHSIG, SIGKILL


def readable_by_others(allowed: bool) -> None:
    """Whether other processes of the same user may look into this one."""
    _done(ctypes.CDLL(None, use_errno=True).prctl(4, int(allowed), 0, 0, 0))  # PR_SET_DUMPABLE


def landlock_version() -> int:
    """Version of Landlock in this kernel; below 1 where there is none."""
    return ctypes.CDLL(None, use_errno=True).syscall(444, None, 0, 1)


def _landlock(libc: Any, folder: str) -> None:
    """Leave the interpreter and the system's libraries for reading and ``folder`` for writing."""
    reading = 1 | 4 | 8  # Execute, read a file, read a folder.
    writing = (1 << 13) - 1
    version = landlock_version()
    handled = writing | (1 << 13 if version >= 2 else 0) | (1 << 14 if version >= 3 else 0)
    rules = struct.pack("QQQ", handled, 3 if version >= 4 else 0, 3 if version >= 6 else 0)
    rules = rules[: 8 if version < 4 else 16 if version < 6 else 24]
    ruleset = libc.syscall(444, ctypes.create_string_buffer(rules, len(rules)), len(rules), 0)
    _done(ruleset)
    readable = {"/usr", "/lib", "/lib64", "/etc/ld.so.cache", "/dev/null", "/dev/urandom", sys.base_prefix}
    for path, rights in [*((path, reading) for path in sorted(readable)), (folder, handled)]:
        try:
            place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue
        if not os.path.isdir(path):
            rights &= 1 | 2 | 4 | (handled & 1 << 14)
        _done(libc.syscall(445, ruleset, 1, ctypes.create_string_buffer(struct.pack("=Qi", rights, place), 12), 0))
        os.close(place)
    _done(libc.syscall(446, ruleset, 0))
    os.close(ruleset)


def _done(result: int) -> None:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

"""Shut the own process in, for good, and then run a program of which nothing is known.

Started as a script by `sandbox.py`, without site packages; standard library only. The walls are the kernel's, none is
Python's:

    Landlock   reads of Python's standard library and of /dev/null, /dev/zero, /dev/urandom; no other file, no write,
               no TCP, no signal to another process
    seccomp    no new process, no socket, no signal, no debugging, no mount, no io_uring, no shared memory
    rlimits    computing time, memory, file size, open files, no core dump

All of it works without privileges, in containers as well. If the kernel lacks Landlock or seccomp, nothing is run.

Arguments: memory in bytes, computing time in seconds, and the program's file. With "probe" as the file only the walls
are built. Exit status 97: they could not be built.
"""

from __future__ import annotations

import ctypes
import os
import platform
import random
import resource
import signal
import sys
import sysconfig

NO_JAIL = 97
EPERM, ENOSYS = 1, 38

# System calls that are refused: x86-64, and arm64 (asm-generic) numbers.
DENIED = {
    "fork": (57, None), "vfork": (58, None), "execve": (59, 221), "execveat": (322, 281),
    "kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131), "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240), "pidfd_send_signal": (424, 424), "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438), "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "process_madvise": (440, 440), "kcmp": (312, 272),
    "socket": (41, 198), "socketpair": (53, 199), "connect": (42, 203), "bind": (49, 200), "listen": (50, 201),
    "io_setup": (206, 0), "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41),
    "chroot": (161, 51), "fsopen": (430, 430), "open_tree": (428, 428), "move_mount": (429, 429),
    "open_by_handle_at": (304, 265), "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282),
    "keyctl": (250, 219), "add_key": (248, 217), "request_key": (249, 218), "init_module": (175, 105),
    "finit_module": (313, 273), "delete_module": (176, 106), "kexec_load": (246, 104), "reboot": (169, 142),
    "swapon": (167, 224), "swapoff": (168, 225), "sethostname": (170, 161), "setdomainname": (171, 162),
    "settimeofday": (164, 170), "clock_settime": (227, 112), "adjtimex": (159, 171), "acct": (163, 89),
    "quotactl": (179, 60), "setpriority": (141, 140), "ioprio_set": (251, 30), "sched_setaffinity": (203, 122),
    "sched_setscheduler": (144, 119), "sched_setparam": (142, 118), "sched_setattr": (314, 274),
    "migrate_pages": (256, 238), "move_pages": (279, 239), "setrlimit": (160, 164),
    "shmget": (29, 194), "msgget": (68, 186), "semget": (64, 190), "mq_open": (240, 180), "memfd_create": (319, 279),
    "memfd_secret": (447, 447), "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "chown": (92, None),
    "lchown": (94, None), "fchown": (93, 55), "fchownat": (260, 54), "setxattr": (188, 5), "lsetxattr": (189, 6),
    "fsetxattr": (190, 7), "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16),
    "utime": (132, None), "utimes": (235, None), "futimesat": (261, None), "utimensat": (280, 88),
    "truncate": (76, 45), "setsid": (112, 157), "setpgid": (109, 154), "personality": (135, 92), "syslog": (103, 116),
    "fchmodat2": (452, 452), "setxattrat": (463, 463),
}  # fmt: skip
# Calls whose arguments decide.
CLONE, CLONE3, FCNTL, IOCTL, PRLIMIT = (56, 220), (435, 435), (72, 25), (16, 29), (302, 261)
ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
THREAD = 0x10000  # CLONE_THREAD
F_SETOWN, F_SETSIG, F_SETOWN_EX, FIOSETOWN, SIOCSPGRP, TIOCSTI = 8, 10, 15, 0x8901, 0x8902, 0x5412

LOAD, EQUAL, GREATER, BITS, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06  # BPF: ld [k], jeq, jge, jset, ret
ALLOW, KILL, REFUSE = 0x7FFF0000, 0x80000000, 0x00050000
ARGUMENT = (16, 24, 32)  # offsets of the lower halves of the first arguments in seccomp_data

READ_FILE, READ_DIR, EXECUTE = 1 << 2, 1 << 3, 1 << 0
READABLE_DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom")

libc = ctypes.CDLL(None, use_errno=True)


class Instruction(ctypes.Structure):
    """One instruction of a seccomp filter."""

    _fields_ = [("code", ctypes.c_ushort), ("jt", ctypes.c_ubyte), ("jf", ctypes.c_ubyte), ("k", ctypes.c_uint)]


class Filter(ctypes.Structure):
    """A seccomp filter."""

    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.POINTER(Instruction))]


class Ruleset(ctypes.Structure):
    """What Landlock handles: everything that no rule allows is refused."""

    _fields_ = [("files", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64)]


class Beneath(ctypes.Structure):
    """A Landlock rule for a folder or file."""

    _pack_ = 1
    _fields_ = [("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32)]


def shut_in(memory: int, seconds: int) -> None:
    """Build the walls; raises OSError where the kernel lacks one."""
    limits = {"CPU": seconds, "AS": memory, "FSIZE": 0, "CORE": 0, "NOFILE": 64, "STACK": 16 << 20, "MEMLOCK": 0}
    libc.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: ends with the process that asked for it
    _check(libc.prctl(4, 0, 0, 0, 0), "PR_SET_DUMPABLE")
    _check(libc.prctl(38, 1, 0, 0, 0), "PR_SET_NO_NEW_PRIVS")
    _landlock()
    for name, limit in limits.items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (limit, limit))
    _seccomp()


def _landlock() -> None:
    create, add, restrict = 444, 445, 446  # the same numbers on every architecture
    version = libc.syscall(create, None, 0, 1)
    _check(version, "Landlock")
    bits = {1: 13, 2: 14, 3: 15, 4: 15}.get(version, 16)  # access rights to files that this kernel knows
    rules = Ruleset((1 << bits) - 1, 3 if version >= 4 else 0, 3 if version >= 6 else 0)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    ruleset = _check(libc.syscall(create, ctypes.byref(rules), size, 0), "Landlock's rules")
    folders = {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), "/usr/lib", "/lib", "/lib64"}
    for path in sorted(folders) + list(READABLE_DEVICES):
        if os.path.exists(path):
            file = os.open(path, os.O_PATH | os.O_CLOEXEC)
            access = READ_FILE | READ_DIR | EXECUTE if os.path.isdir(path) else READ_FILE
            _check(libc.syscall(add, ruleset, 1, ctypes.byref(Beneath(access, file)), 0), path)
            os.close(file)
    _check(libc.syscall(restrict, ruleset, 0), "Landlock")
    os.close(ruleset)


def _seccomp() -> None:
    if platform.machine() not in ARCHITECTURES:
        raise OSError(f"no table of system calls for {platform.machine()}")
    code = program(platform.machine())
    made = (Instruction * len(code))(*(Instruction(*one) for one in code))
    _check(libc.prctl(22, 2, ctypes.byref(Filter(len(code), made)), 0, 0), "seccomp")


def program(machine: str) -> list[tuple[int, int, int, int]]:
    """Return the filter as (code, jump if true, jump if false, operand)."""
    audit, column = ARCHITECTURES[machine]
    refuse = (RETURN, 0, 0, REFUSE | EPERM)
    code = [(LOAD, 0, 0, 4), (EQUAL, 1, 0, audit), (RETURN, 0, 0, KILL), (LOAD, 0, 0, 0)]
    if machine == "x86_64":  # the x32 calls, under other numbers
        code += [(GREATER, 0, 1, 0x40000000), refuse]
    for numbers in DENIED.values():
        if numbers[column] is not None:
            code += [(EQUAL, 0, 1, numbers[column]), refuse]  # type: ignore[list-item]
    # The C library takes clone where clone3 is missing, whose flags a filter cannot see.
    code += [(EQUAL, 0, 1, CLONE3[column]), (RETURN, 0, 0, REFUSE | ENOSYS)]
    code += [(EQUAL, 0, 4, CLONE[column]), (LOAD, 0, 0, ARGUMENT[0]), (BITS, 1, 0, THREAD), refuse,
             (RETURN, 0, 0, ALLOW)]  # fmt: skip
    code += _unless(FCNTL[column], ARGUMENT[1], (F_SETOWN, F_SETSIG, F_SETOWN_EX))
    code += _unless(IOCTL[column], ARGUMENT[1], (FIOSETOWN, SIOCSPGRP, TIOCSTI))
    code += [(EQUAL, 0, 4, PRLIMIT[column]), (LOAD, 0, 0, ARGUMENT[0]), (EQUAL, 1, 0, 0), refuse,
             (RETURN, 0, 0, ALLOW)]  # fmt: skip
    return [*code, (RETURN, 0, 0, ALLOW)]


def _unless(number: int, argument: int, refused: tuple[int, ...]) -> list[tuple[int, int, int, int]]:
    """Refuse a call with one of these values of an argument, allow it with others."""
    tests = [step for value in refused for step in ((EQUAL, 0, 1, value), (RETURN, 0, 0, REFUSE | EPERM))]
    return [(EQUAL, 0, 2 + len(tests), number), (LOAD, 0, 0, argument), *tests, (RETURN, 0, 0, ALLOW)]


def _check(result: int, what: str) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")
    return int(result)


def main() -> None:
    """Run the program of a file, whose tests follow it in the same file."""
    memory, seconds, path = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    source = ""
    if path != "probe":
        with open(path, encoding="utf-8") as file:
            source = file.read()
    try:
        shut_in(memory, seconds)
    except (OSError, AttributeError, ValueError) as error:
        print(error, file=sys.stderr)
        os._exit(NO_JAIL)
    random.seed(0)  # the same program gives the same output
    sys.argv = ["solution.py"]
    namespace = {"__name__": "__main__", "__builtins__": __builtins__}
    exec(compile(source, "solution.py", "exec"), namespace)


if __name__ == "__main__":
    main()

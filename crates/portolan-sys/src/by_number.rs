//! System calls by their numbers, for a program that finds out which of them it may make.
//!
//! What the C library and `rustix` do before and after a call would hide what a filter says to it,
//! and some of these calls are made by nobody else.
//!
//! # Safety
//!
//! A system call can harm its own process by writing to its memory, by changing what is mapped
//! where, and by closing or replacing descriptors. [`Call`] has none that does the second or third
//! to anything that is there already: `shmat` and `io_uring_setup` make something new. For the first
//! there is a table of what the kernel does with each argument: it writes only where the table has
//! `Takes::Write`, and there [`call`] wants a buffer of at least the size that the kernel writes. An
//! operation that decides what else is written is fixed by `Takes::OneOf`. A child that is made
//! here ends without having touched any memory.
#![allow(
    unsafe_code,
    reason = "system calls by number, a software interrupt, and executing a descriptor"
)]

use std::ffi::{CStr, c_char};
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::ptr;

use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use rustix::process::{Pid, WaitOptions, waitpid};

/// An argument of a call.
#[derive(Debug)]
pub enum Argument<'a> {
    /// A number. A negative one is sign-extended, as the C library does it.
    Number(i64),
    /// A string, which the kernel reads.
    Text(&'a CStr),
    /// Bytes that the kernel reads.
    Read(&'a [u8]),
    /// Bytes that the kernel may write.
    Write(&'a mut [u8]),
}

/// A call, with the arguments that it takes.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    number: libc::c_long,
    takes: &'static [Takes],
}

/// What the kernel does with an argument.
#[derive(Clone, Copy, Debug)]
enum Takes {
    /// Takes the value, or reads at an address that it checks itself.
    Number,
    /// Takes one of these values.
    OneOf(&'static [i64]),
    /// Reads a string.
    Text,
    /// Reads so many bytes.
    Read(usize),
    /// Writes at most so many bytes.
    Write(usize),
}

use Takes::{Number, OneOf, Read, Text, Write};

const ZERO: Takes = OneOf(&[0]);

macro_rules! calls {
    ($($(#[$doc:meta])* $name:ident = $number:expr, [$($takes:expr),*];)*) => {
        impl Call {
            $($(#[$doc])* pub const $name: Self = Self { number: $number, takes: &[$($takes),*] };)*
        }
    };
}

calls! {
    /// `tgkill(group, thread, signal)`
    TGKILL = libc::SYS_tgkill, [Number, Number, Number];
    /// `kill(process, signal)`, for the process ids that stand for many.
    KILL = libc::SYS_kill, [Number, Number];
    /// `rt_sigqueueinfo(process, signal, information)`
    RT_SIGQUEUEINFO = libc::SYS_rt_sigqueueinfo, [Number, Number, Read(128)];
    /// `ptrace(PTRACE_SEIZE, process, 0, 0)`
    PTRACE_SEIZE = libc::SYS_ptrace, [OneOf(&[0x4206]), Number, ZERO, ZERO];
    /// `kcmp(process, other process, type, number, number)`
    KCMP = libc::SYS_kcmp, [Number, Number, Number, Number, Number];
    /// `getsid(process)`, whose answer may be 0 for the first process of a machine.
    GETSID = libc::SYS_getsid, [Number];
    /// `ioprio_set(kind, who, priority)`
    IOPRIO_SET = libc::SYS_ioprio_set, [Number, Number, Number];
    /// `ioprio_get(kind, who)`
    IOPRIO_GET = libc::SYS_ioprio_get, [Number, Number];
    /// `sched_setscheduler(process, policy, parameters)`
    SCHED_SETSCHEDULER = libc::SYS_sched_setscheduler, [Number, Number, Read(4)];
    /// `sched_getscheduler(process)`
    SCHED_GETSCHEDULER = libc::SYS_sched_getscheduler, [Number];
    /// `fcntl(descriptor, F_SETOWN, process)`
    FCNTL_NUMBER = libc::SYS_fcntl, [Number, OneOf(&[4, 8, 10]), Number];
    /// `shmget(key, size, flags)`
    SHMGET = libc::SYS_shmget, [Number, Number, Number];
    /// `shmat(segment, 0, 0)`
    SHMAT = libc::SYS_shmat, [Number, ZERO, ZERO];
    /// `shmctl(segment, IPC_RMID, 0)`
    SHM_REMOVE = libc::SYS_shmctl, [Number, ZERO, ZERO];
    /// `semget(key, number, flags)`
    SEMGET = libc::SYS_semget, [Number, Number, Number];
    /// `semctl(set, number, IPC_RMID | GETVAL, 0)`
    SEMCTL = libc::SYS_semctl, [Number, Number, OneOf(&[0, 12]), ZERO];
    /// `msgget(key, flags)`
    MSGGET = libc::SYS_msgget, [Number, Number];
    /// `msgsnd(queue, message of one byte, 1, flags)`
    MSGSND = libc::SYS_msgsnd, [Number, Read(size_of::<libc::c_long>() + 1), OneOf(&[1]), Number];
    /// `msgctl(queue, IPC_RMID, 0)`
    MSG_REMOVE = libc::SYS_msgctl, [Number, ZERO, ZERO];
    /// `mq_open(name, flags, mode, 0)`
    MQ_OPEN = libc::SYS_mq_open, [Text, Number, Number, ZERO];
    /// `mq_unlink(name)`
    MQ_UNLINK = libc::SYS_mq_unlink, [Text];
    /// `add_key(type, description, payload of one byte, 1, keyring)`
    ADD_KEY = libc::SYS_add_key, [Text, Text, Read(1), OneOf(&[1]), Number];
    /// `keyctl(KEYCTL_DESCRIBE | KEYCTL_READ, key, 0, 0)`: how long that is.
    KEYCTL_LENGTH = libc::SYS_keyctl, [OneOf(&[6, 11]), Number, ZERO, ZERO];
    /// `keyctl(KEYCTL_UNLINK, key, keyring)`
    KEYCTL_UNLINK = libc::SYS_keyctl, [OneOf(&[9]), Number, Number];
    /// `unshare(CLONE_NEWUSER)`
    UNSHARE_USER = libc::SYS_unshare, [OneOf(&[0x1000_0000])];
    /// `bpf(BPF_MAP_CREATE, attributes, 128)`
    BPF_MAP_CREATE = libc::SYS_bpf, [ZERO, Read(128), OneOf(&[128])];
    /// `perf_event_open(attributes, process, processor, group, flags)`
    PERF_EVENT_OPEN = libc::SYS_perf_event_open, [Write(128), Number, Number, Number, Number];
    /// `userfaultfd(flags)`
    USERFAULTFD = libc::SYS_userfaultfd, [Number];
    /// `io_uring_setup(entries, parameters)`
    IO_URING_SETUP = libc::SYS_io_uring_setup, [Number, Write(120)];
    /// `name_to_handle_at(directory, path, handle, mount, flags)`
    NAME_TO_HANDLE_AT = libc::SYS_name_to_handle_at, [Number, Text, Write(136), Write(8), Number];
    /// `open_by_handle_at(mount, handle, flags)`
    OPEN_BY_HANDLE_AT = libc::SYS_open_by_handle_at, [Number, Read(136), Number];
    /// `syslog(SYSLOG_ACTION_READ_ALL, buffer, 64)`
    SYSLOG_READ_ALL = libc::SYS_syslog, [OneOf(&[3]), Write(64), OneOf(&[64])];
    /// `personality(persona)`
    PERSONALITY = libc::SYS_personality, [Number];
    /// `kexec_load(0, 0, 0, flags)`
    KEXEC_LOAD = libc::SYS_kexec_load, [ZERO, ZERO, ZERO, Number];
    /// `init_module(image of one byte, 1, parameters)`
    INIT_MODULE = libc::SYS_init_module, [Read(1), OneOf(&[1]), Text];
    /// `finit_module(descriptor, parameters, flags)`
    FINIT_MODULE = libc::SYS_finit_module, [Number, Text, Number];
    /// `truncate(path, length)`
    TRUNCATE = libc::SYS_truncate, [Text, Number];
    /// `fchmodat2(directory, path, mode, flags)`
    FCHMODAT2 = libc::SYS_fchmodat2, [Number, Text, Number, Number];
    /// `fanotify_init(flags, flags of events)`
    FANOTIFY_INIT = libc::SYS_fanotify_init, [Number, Number];
    /// `process_madvise(process, vector, 1, advice, 0)`
    PROCESS_MADVISE = libc::SYS_process_madvise, [Number, Read(16), OneOf(&[1]), Number, ZERO];
    /// `ioctl(descriptor, TIOCSTI | TIOCLINUX, byte)`, also with bits above the lower 32.
    IOCTL_TYPE = libc::SYS_ioctl, [Number, OneOf(&[0x5412, 0x541c, 0x1_0000_5412]), Read(1)];
    /// `socket(family, kind, protocol)`, for families that have no name.
    SOCKET = libc::SYS_socket, [Number, Number, Number];
    /// `socket(family, kind, protocol)` by its number of x32.
    SOCKET_X32 = 0x4000_0000 | libc::SYS_socket, [Number, Number, Number];
    /// A number far above those that there are.
    UNKNOWN = 4000, [];
}

/// Makes a call and gives what it gives. A descriptor that it makes is nobody's and stays open.
///
/// # Errors
///
/// What the kernel says. `EFAULT` without asking it if the arguments are not of the kinds that the
/// call takes, or a buffer is too short for it.
pub fn call(call: Call, arguments: &mut [Argument<'_>]) -> Result<i64, Errno> {
    let mut raw = [0; 6];
    if arguments.len() != call.takes.len() {
        return Err(Errno::FAULT);
    }
    for ((slot, argument), takes) in raw.iter_mut().zip(arguments).zip(call.takes) {
        *slot = pass(argument, *takes).ok_or(Errno::FAULT)?;
    }
    let [a, b, c, d, e, f] = raw;
    // SAFETY: each argument is what the table says that the kernel does with it, see the head of
    // this file; the buffers are borrowed for the call. Tested by `arguments_of_other_kinds_are_refused`.
    let result = unsafe { libc::syscall(call.number, a, b, c, d, e, f) };
    if result < 0 {
        return Err(last_error());
    }
    Ok(result)
}

/// `None` if the kernel would do something else with it.
fn pass(argument: &mut Argument<'_>, takes: Takes) -> Option<libc::c_long> {
    match (argument, takes) {
        (Argument::Number(number), Number) => Some(*number),
        (Argument::Number(number), OneOf(values)) => values.contains(number).then_some(*number),
        (Argument::Text(text), Text) => Some(address(text.as_ptr())),
        (Argument::Read(bytes), Read(min)) => (bytes.len() >= min).then(|| address(bytes.as_ptr())),
        (Argument::Write(bytes), Write(max)) => {
            (bytes.len() >= max).then(|| address(bytes.as_mut_ptr()))
        }
        _ => None,
    }
}

fn address<T>(pointer: *const T) -> libc::c_long {
    pointer.expose_provenance().cast_signed() as libc::c_long
}

fn last_error() -> Errno {
    Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// Reads memory of another process with `process_vm_readv`. Gives how much was read.
///
/// # Errors
///
/// What process_vm_readv(2) says.
pub fn read_memory(process: Pid, address: usize, buffer: &mut [u8]) -> Result<usize, Errno> {
    let here = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    let there = libc::iovec {
        iov_base: ptr::without_provenance_mut(address),
        iov_len: buffer.len(),
    };
    let process = process.as_raw_nonzero().get();
    // SAFETY: the kernel writes to `buffer` and no further; the other address is of another process.
    let read =
        unsafe { libc::process_vm_readv(process, &raw const here, 1, &raw const there, 1, 0) };
    usize::try_from(read).map_err(|_| last_error())
}

/// Maps the first page of memory, shared with whoever else maps it, and writes its first byte.
///
/// # Errors
///
/// What mmap(2) says; `EINVAL` if there is no such page.
pub fn write_through_mapping(memory: BorrowedFd<'_>, byte: u8) -> Result<(), Errno> {
    const PAGE: usize = 4096;
    if rustix::fs::fstat(memory)?.st_size < PAGE as i64 {
        return Err(Errno::INVAL);
    }
    let (access, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
    // SAFETY: a new mapping, at a place that the kernel chooses, which nothing refers to.
    let page = unsafe { mmap(ptr::null_mut(), PAGE, access, flags, memory, 0) }?;
    // SAFETY: the page is mapped; whoever makes it shorter at this moment kills this process.
    unsafe { page.cast::<u8>().write_volatile(byte) };
    // SAFETY: it was mapped above, and nothing refers to it.
    unsafe { munmap(page, PAGE) }
}

/// How a child is made.
#[derive(Clone, Copy, Debug)]
pub enum Clone {
    /// `clone`, with its flags in an argument.
    Old,
    /// `clone3`, with its flags in memory.
    New,
}

/// Makes a child in a user namespace of its own, which ends at once, and waits for it.
///
/// # Errors
///
/// What clone(2) says.
pub fn child_of_new_user(how: Clone) -> Result<(), Errno> {
    let flags = libc::CLONE_NEWUSER as u64;
    let exit_signal = libc::SIGCHLD as u64;
    // `struct clone_args` in its first version.
    let arguments = [flags, 0, 0, 0, exit_signal, 0, 0, 0];
    let zero: libc::c_long = 0;
    let result = match how {
        // SAFETY: without CLONE_VM the child has memory and a stack of its own, a copy of these. It
        // does nothing but end, below.
        Clone::Old => unsafe {
            libc::syscall(libc::SYS_clone, flags | exit_signal, zero, zero, zero, zero)
        },
        // SAFETY: as above; the kernel reads as many bytes as are announced.
        Clone::New => unsafe {
            let size = size_of_val(&arguments);
            libc::syscall(libc::SYS_clone3, &raw const arguments, size)
        },
    };
    if result < 0 {
        return Err(last_error());
    }
    let Some(child) = i32::try_from(result).ok().and_then(Pid::from_raw) else {
        // SAFETY: takes no pointers, and runs no code of this process.
        unsafe { libc::syscall(libc::SYS_exit_group, zero) };
        unreachable!("it has ended")
    };
    waitpid(Some(child), WaitOptions::empty())?;
    Ok(())
}

/// Executes the program that is open in a descriptor, with one argument beside its name and no
/// environment (`execveat` with `AT_EMPTY_PATH`). Returns only if that fails.
pub fn execute(program: BorrowedFd<'_>, name: &CStr, argument: &CStr) -> Errno {
    let arguments: [*const c_char; 3] = [name.as_ptr(), argument.as_ptr(), ptr::null()];
    let environment: [*const c_char; 1] = [ptr::null()];
    // SAFETY: strings and arrays that end, as the kernel wants them.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            program.as_raw_fd(),
            c"".as_ptr(),
            arguments.as_ptr(),
            environment.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    last_error()
}

/// Asks for the process id by its number on i386, with a software interrupt. A kernel that does not
/// have it sends a signal, and so may a filter.
#[cfg(target_arch = "x86_64")]
#[must_use]
pub fn process_id_by_interrupt() -> i32 {
    let mut result = 20;
    // SAFETY: `getpid` takes no arguments and writes nothing; the registers that the kernel may
    // change are declared.
    unsafe {
        std::arch::asm!(
            "int 0x80",
            inlateout("eax") result,
            lateout("r8") _,
            lateout("r9") _,
            lateout("r10") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_of_other_kinds_are_refused() {
        let mut short = [0; 119];
        let refused = [
            call(Call::SCHED_GETSCHEDULER, &mut []),
            call(Call::SCHED_GETSCHEDULER, &mut [Argument::Text(c"x")]),
            call(Call::SEMCTL, &mut [1, 1, 13, 0].map(Argument::Number)),
            call(
                Call::IO_URING_SETUP,
                &mut [Argument::Number(1), Argument::Write(&mut short)],
            ),
            call(Call::MQ_UNLINK, &mut [Argument::Read(b"x\0")]),
        ];
        assert_eq!(refused, [Err(Errno::FAULT); 5]);
    }

    #[test]
    fn calls_are_made_by_their_numbers() {
        assert_eq!(call(Call::UNKNOWN, &mut []), Err(Errno::NOSYS));
        let scheduler = call(Call::SCHED_GETSCHEDULER, &mut [Argument::Number(0)]);
        assert_eq!(scheduler, Ok(libc::SCHED_OTHER.into()));
        let mut handle = [0; 136];
        handle[0] = 128;
        let mut mount = [0; 8];
        let named = call(
            Call::NAME_TO_HANDLE_AT,
            &mut [
                Argument::Number(libc::AT_FDCWD.into()),
                Argument::Text(c"."),
                Argument::Write(&mut handle),
                Argument::Write(&mut mount),
                Argument::Number(0),
            ],
        );
        assert!(
            named == Ok(0) || named == Err(Errno::OPNOTSUPP),
            "{named:?}"
        );
        assert!(named.is_err() || mount != [0; 8], "the kernel wrote there");
    }

    #[test]
    fn memory_of_this_process_is_read() {
        let there = *b"memory";
        let mut here = [0; 6];
        let address = there.as_ptr().expose_provenance();
        let read = read_memory(rustix::process::getpid(), address, &mut here);
        assert_eq!((read, here), (Ok(6), there));
    }

    #[test]
    fn what_is_no_program_is_not_executed() {
        let null = std::fs::File::open("/dev/null").expect("open");
        let errno = execute(std::os::fd::AsFd::as_fd(&null), c"x", c"y");
        assert_eq!(errno, Errno::ACCESS);
    }
}

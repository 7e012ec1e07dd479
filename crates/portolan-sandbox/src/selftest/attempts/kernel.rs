//! The insides of the kernel (statement 14), and numbers of system calls of other kinds (15).

use std::fs::File;
use std::os::fd::AsRawFd as _;

use portolan_sys::by_number::Argument::{Number, Read, Text, Write};
use portolan_sys::by_number::{Call, call};
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::super::attempt::{Attempt, Control, Refusal};
use super::super::outside::Outside;
use super::{Attempted, home, numbers, own_file, text};

pub(super) const ATTEMPTS: &[Attempt] = &[
    Attempt::new(14, "load_bpf", "bpf()", load_bpf).control(Control::Root),
    Attempt::new(14, "perf", "perf_event_open", perf).control(Control::Root),
    // UFFD_USER_MODE_ONLY: what a user may have without privileges.
    Attempt::new(14, "user_faults", "userfaultfd", |_| {
        numbers(Call::USERFAULTFD, [1])
    }),
    Attempt::new(14, "io_uring", "io_uring_setup", |_| {
        call(Call::IO_URING_SETUP, &mut [Number(4), Write(&mut [0; 120])])?;
        Ok(())
    }),
    Attempt::new(14, "open_by_handle", "open_by_handle_at", open_by_handle).control(Control::Root),
    Attempt::new(14, "handle_of", "name_to_handle_at", |_| {
        handle_of_own().map(drop)
    }),
    Attempt::new(14, "kernel_log", "syslog(2) read kernel log", |_| {
        let arguments = &mut [Number(3), Write(&mut [0; 64]), Number(64)];
        call(Call::SYSLOG_READ_ALL, arguments)?;
        Ok(())
    })
    .control(Control::Root),
    Attempt::new(
        14,
        "no_randomization",
        "personality(NO_RANDOMIZE/READ_IMPLIES_EXEC)",
        |_| numbers(Call::PERSONALITY, [0x0440_0000]),
    ),
    Attempt::new(14, "load_kernel", "kexec_load", load_kernel).control(Control::Root),
    Attempt::new(14, "load_module", "init_module", load_module).control(Control::Root),
    Attempt::new(14, "load_module_file", "finit_module", load_module_file).control(Control::Root),
    // FAN_CLASS_NOTIF with FAN_REPORT_FID: what a user may have without privileges.
    Attempt::new(14, "fanotify", "fanotify_init", |_| {
        numbers(Call::FANOTIFY_INIT, [0x200, 0])
    }),
    Attempt::new(
        14,
        "unknown_number",
        "a system call that there is not",
        |_| numbers(Call::UNKNOWN, []),
    ),
    Attempt::new(15, "interrupt_80", "int 0x80 i386 getpid", interrupt_80),
    Attempt::new(15, "x32_socket", "x32 socket()", |_| {
        numbers(Call::SOCKET_X32, [1, 1, 0])
    }),
];

/// An array map of one element of 4 bytes.
fn load_bpf(_: &Outside) -> Attempted {
    let mut attributes = [0; 128];
    for (place, number) in [(0, 2_u32), (4, 4), (8, 4), (12, 1)] {
        attributes[place..place + 4].copy_from_slice(&number.to_ne_bytes());
    }
    call(
        Call::BPF_MAP_CREATE,
        &mut [Number(0), Read(&attributes), Number(128)],
    )?;
    Ok(())
}

/// The time of this process, without the kernel's and the hypervisor's part.
fn perf(_: &Outside) -> Attempted {
    let mut attributes = [0; 128];
    attributes[..4].copy_from_slice(&1_u32.to_ne_bytes());
    attributes[4..8].copy_from_slice(&128_u32.to_ne_bytes());
    attributes[40..48].copy_from_slice(&(1_u64 << 5 | 1 << 6).to_ne_bytes());
    let [this, any, none, flags] = [0, -1, -1, 0].map(Number);
    call(
        Call::PERF_EVENT_OPEN,
        &mut [Write(&mut attributes), this, any, none, flags],
    )?;
    Ok(())
}

fn handle_of_own() -> Result<[u8; 136], Refusal> {
    const CWD: i64 = -100;
    let path = text(&own_file("handle")?)?;
    let mut handle = [0; 136];
    handle[..4].copy_from_slice(&128_u32.to_ne_bytes());
    let arguments = &mut [
        Number(CWD),
        Text(&path),
        Write(&mut handle),
        Write(&mut [0; 8]),
        Number(0),
    ];
    call(Call::NAME_TO_HANDLE_AT, arguments)?;
    Ok(handle)
}

/// By the handle of a file of its own, or, where that is refused, by one that leads nowhere.
fn open_by_handle(_: &Outside) -> Attempted {
    let directory = super::open(home(), OFlags::RDONLY)?;
    let handle = handle_of_own().unwrap_or([1; 136]);
    let directory = Number(directory.as_raw_fd().into());
    call(
        Call::OPEN_BY_HANDLE_AT,
        &mut [directory, Read(&handle), Number(0)],
    )?;
    Ok(())
}

/// No flag that there is: who may load kernels is told that, and nobody else.
fn load_kernel(_: &Outside) -> Attempted {
    match call(Call::KEXEC_LOAD, &mut [0, 0, 0, 0x8000].map(Number)) {
        Err(Errno::INVAL) => Ok(()),
        other => Ok(other.map(drop)?),
    }
}

/// What is no module: who may load them is told that, and nobody else.
fn load_module(_: &Outside) -> Attempted {
    looked_at(call(
        Call::INIT_MODULE,
        &mut [Read(b"x"), Number(1), Text(c"")],
    ))
}

fn load_module_file(_: &Outside) -> Attempted {
    let file = File::open(own_file("module")?)?;
    let descriptor = Number(file.as_raw_fd().into());
    looked_at(call(
        Call::FINIT_MODULE,
        &mut [descriptor, Text(c""), Number(0)],
    ))
}

fn looked_at(loaded: Result<i64, Errno>) -> Attempted {
    match loaded {
        Err(Errno::NOEXEC) => Ok(()),
        other => Ok(other.map(drop)?),
    }
}

#[cfg(target_arch = "x86_64")]
fn interrupt_80(_: &Outside) -> Attempted {
    match portolan_sys::by_number::process_id_by_interrupt() {
        1.. => Ok(()),
        negative => Err(Errno::from_raw_os_error(negative.wrapping_neg()).into()),
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn interrupt_80(_: &Outside) -> Attempted {
    Err(Refusal::Absent)
}

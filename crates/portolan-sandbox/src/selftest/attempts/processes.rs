//! Telling other processes something, and looking into them (statements 10 and 11).

use std::fs::OpenOptions;
use std::io::Write as _;

use portolan_sys::by_number::Argument::{Number, Read};
use portolan_sys::by_number::{Call, call, read_memory};
use rustix::fs::OFlags;
use rustix::process::{
    PidfdFlags, PidfdGetfdFlags, Resource, Rlimit, Signal, getpid, getppid, getuid, kill_process,
    pidfd_getfd, pidfd_open, pidfd_send_signal, prlimit, setpriority_process, setpriority_user,
    test_kill_process,
};
use rustix::thread::{sched_getaffinity, sched_setaffinity};

use super::super::attempt::{Attempt, Control, Refusal, Want};
use super::super::outside::Outside;
use super::{Attempted, list, numbers, open, read};

pub(super) const ATTEMPTS: &[Attempt] = &[
    Attempt::new(10, "kill_victim", "kill(victim,0)", |o| {
        Ok(test_kill_process(o.pid)?)
    }),
    Attempt::new(10, "signal_victim", "kill(victim,SIGURG)", |o| {
        Ok(kill_process(o.pid, HARMLESS)?)
    }),
    Attempt::new(10, "kill_all", "kill(-1,0)", |_| kill(-1, 0))
        .want(Want::Harmless, Want::Harmless),
    Attempt::new(10, "signal_all", "kill(-1,SIGURG)", |_| {
        kill(-1, HARMLESS.as_raw())
    })
    .want(Want::Harmless, Want::Harmless)
    .control(Control::None),
    // In T2 its parent is the first process of its namespace, which ends with it.
    Attempt::new(10, "kill_parent", "kill(parent launcher,0)", kill_parent)
        .want(Want::Refused, Want::Harmless),
    Attempt::new(10, "tgkill_victim", "tgkill victim", |o| {
        numbers(Call::TGKILL, [o.number(), o.number(), 0])
    }),
    Attempt::new(
        10,
        "pidfd_signal",
        "pidfd_open+pidfd_send_signal",
        pidfd_signal,
    ),
    Attempt::new(10, "queue_signal", "rt_sigqueueinfo", queue_signal),
    Attempt::new(
        10,
        "own_by_signal",
        "SIGIO to victim by F_SETOWN",
        own_by_signal,
    ),
    Attempt::new(
        10,
        "choose_signal",
        "choose the signal of an open file (F_SETSIG)",
        choose_signal,
    ),
    Attempt::new(
        10,
        "signal_when_readable",
        "have an open file signal whom it likes (O_ASYNC)",
        signal_when_readable,
    ),
    Attempt::new(
        10,
        "limit_victim",
        "prlimit victim (RLIMIT_CPU -> kill)",
        limit_victim,
    ),
    Attempt::new(10, "priority_victim", "setpriority victim", |o| {
        Ok(setpriority_process(Some(o.pid), 19)?)
    }),
    Attempt::new(
        10,
        "priority_user",
        "setpriority of all of the user's processes",
        |_| Ok(setpriority_user(getuid(), 19)?),
    )
    .control(Control::None),
    Attempt::new(
        10,
        "affinity_victim",
        "sched_setaffinity victim",
        affinity_victim,
    ),
    Attempt::new(
        10,
        "scheduler_victim",
        "sched_setscheduler victim IDLE",
        scheduler_victim,
    ),
    Attempt::new(10, "io_priority_victim", "ioprio_set victim", |o| {
        numbers(Call::IOPRIO_SET, [1, o.number(), 0x6000])
    }),
    Attempt::new(
        10,
        "oom_victim",
        "write /proc/victim/oom_score_adj",
        oom_victim,
    ),
    Attempt::new(11, "ptrace_victim", "ptrace SEIZE victim", |o| {
        numbers(Call::PTRACE_SEIZE, [0x4206, o.number(), 0, 0])
    }),
    Attempt::new(
        11,
        "memory_victim",
        "process_vm_readv victim",
        memory_victim,
    ),
    Attempt::new(11, "environ_victim", "read /proc/victim/environ", |o| {
        read(o.process_file("environ"))
    }),
    Attempt::new(11, "cmdline_victim", "read /proc/victim/cmdline", |o| {
        read(o.process_file("cmdline"))
    }),
    Attempt::new(11, "mem_victim", "open /proc/victim/mem", |o| {
        open(o.process_file("mem"), OFlags::RDONLY)?;
        Ok(())
    }),
    Attempt::new(11, "root_victim", "via /proc/victim/root", |o| {
        list(o.process_file("root/."))
    }),
    Attempt::new(11, "fds_victim", "list /proc/victim/fd", |o| {
        list(o.process_file("fd"))
    }),
    Attempt::new(11, "exe_victim", "readlink /proc/victim/exe", |o| {
        rustix::fs::readlink(o.process_file("exe"), Vec::new())?;
        Ok(())
    }),
    Attempt::new(11, "getfd_victim", "pidfd_getfd victim", |o| {
        let victim = pidfd_open(o.pid, PidfdFlags::empty())?;
        pidfd_getfd(victim, 0, PidfdGetfdFlags::empty())?;
        Ok(())
    }),
    Attempt::new(11, "kcmp_victim", "kcmp victim", |o| {
        let this = getpid().as_raw_nonzero().get().into();
        numbers(Call::KCMP, [this, o.number(), 1, 0, 0])
    }),
    Attempt::new(
        11,
        "read_affinity_victim",
        "sched_getaffinity victim",
        |o| {
            sched_getaffinity(Some(o.pid))?;
            Ok(())
        },
    ),
    Attempt::new(
        11,
        "madvise_victim",
        "process_madvise victim",
        madvise_victim,
    )
    .control(Control::Root),
];

/// It is ignored unless somebody asked for it.
const HARMLESS: Signal = Signal::URG;

fn kill(process: i64, signal: i32) -> Attempted {
    numbers(Call::KILL, [process, signal.into()])
}

fn kill_parent(_: &Outside) -> Attempted {
    Ok(test_kill_process(getppid().ok_or(Refusal::Nothing)?)?)
}

fn pidfd_signal(outside: &Outside) -> Attempted {
    let victim = pidfd_open(outside.pid, PidfdFlags::empty())?;
    Ok(pidfd_send_signal(victim, HARMLESS)?)
}

/// With `SI_QUEUE`, as sigqueue(3) does it.
fn queue_signal(outside: &Outside) -> Attempted {
    let mut information = [0; 128];
    let (signal, code) = (HARMLESS.as_raw(), -1_i32);
    information[..4].copy_from_slice(&signal.to_ne_bytes());
    information[8..12].copy_from_slice(&code.to_ne_bytes());
    let victim = Number(outside.number());
    let signal = Number(signal.into());
    call(
        Call::RT_SIGQUEUEINFO,
        &mut [victim, signal, Read(&information)],
    )?;
    Ok(())
}

fn own_by_signal(outside: &Outside) -> Attempted {
    use std::os::fd::AsRawFd as _;
    let (reader, _writer) = rustix::pipe::pipe()?;
    let descriptor = reader.as_raw_fd().into();
    numbers(Call::FCNTL_NUMBER, [descriptor, 8, outside.number()])
}

fn choose_signal(_: &Outside) -> Attempted {
    use std::os::fd::AsRawFd as _;
    let (reader, _writer) = rustix::pipe::pipe()?;
    let descriptor = reader.as_raw_fd().into();
    numbers(Call::FCNTL_NUMBER, [descriptor, 10, 9])
}

/// A terminal has those who are in its foreground signalled, and nobody has to own it for that.
fn signal_when_readable(_: &Outside) -> Attempted {
    use std::os::fd::AsRawFd as _;
    let (reader, _writer) = rustix::pipe::pipe()?;
    let descriptor = reader.as_raw_fd().into();
    numbers(Call::FCNTL_NUMBER, [descriptor, 4, 0o20_000])
}

/// A limit that is seen and never reached.
fn limit_victim(outside: &Outside) -> Attempted {
    let limit = Some(1 << 40);
    let limit = Rlimit {
        current: limit,
        maximum: limit,
    };
    prlimit(Some(outside.pid), Resource::Cpu, limit)?;
    Ok(())
}

fn affinity_victim(outside: &Outside) -> Attempted {
    let mut first = rustix::thread::CpuSet::new();
    let all = sched_getaffinity(None)?;
    let allowed = (0..rustix::thread::CpuSet::MAX_CPU).find(|&number| all.is_set(number));
    first.set(allowed.ok_or(Refusal::Nothing)?);
    Ok(sched_setaffinity(Some(outside.pid), &first)?)
}

fn scheduler_victim(outside: &Outside) -> Attempted {
    const SCHED_IDLE: i64 = 5;
    let victim = Number(outside.number());
    call(
        Call::SCHED_SETSCHEDULER,
        &mut [victim, Number(SCHED_IDLE), Read(&[0; 4])],
    )?;
    Ok(())
}

fn oom_victim(outside: &Outside) -> Attempted {
    let file = OpenOptions::new()
        .write(true)
        .open(outside.process_file("oom_score_adj"));
    Ok(file?.write_all(b"1000")?)
}

fn memory_victim(outside: &Outside) -> Attempted {
    let mut bytes = [0; 8];
    read_memory(outside.pid, outside.address, &mut bytes)?;
    match &bytes {
        b"portolan" => Ok(()),
        _ => Err(Refusal::Nothing),
    }
}

/// `MADV_COLD` on the page of its secret.
fn madvise_victim(outside: &Outside) -> Attempted {
    use std::os::fd::AsRawFd as _;
    let victim = pidfd_open(outside.pid, PidfdFlags::empty())?;
    let page = (outside.address & !0xfff) as u64;
    let mut vector = [0; 16];
    vector[..8].copy_from_slice(&page.to_ne_bytes());
    vector[8..].copy_from_slice(&0x1000_u64.to_ne_bytes());
    let victim = Number(victim.as_raw_fd().into());
    let (one, cold, nothing) = (Number(1), Number(20), Number(0));
    call(
        Call::PROCESS_MADVISE,
        &mut [victim, Read(&vector), one, cold, nothing],
    )?;
    Ok(())
}

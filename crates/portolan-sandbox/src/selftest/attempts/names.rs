//! What processes share by name (statement 12).

use std::ffi::CStr;

use portolan_sys::by_number::Argument::{Number, Read, Text};
use portolan_sys::by_number::{Call, call};
use rustix::fs::{Mode, OFlags};
use rustix::process::getpid;

use super::super::attempt::Attempt;
use super::super::outside::Outside;
use super::{Attempted, numbers, open, read};

pub(super) const ATTEMPTS: &[Attempt] = &[
    Attempt::new(12, "open_shm", "open /dev/shm file of outside", |o| {
        read(o.shared_memory())
    }),
    Attempt::new(12, "create_shm", "create POSIX shm", create_shm),
    Attempt::new(12, "open_semaphore", "sem_open outside semaphore", |o| {
        open(o.semaphore(), OFlags::RDWR | OFlags::NOFOLLOW)?;
        Ok(())
    }),
    Attempt::new(12, "message_queue", "mq_open outside queue", |o| {
        let (flags, mode, attributes) = (Number(2), Number(0), Number(0));
        call(
            Call::MQ_OPEN,
            &mut [Text(&o.queue()), flags, mode, attributes],
        )?;
        Ok(())
    }),
    Attempt::new(12, "sysv_shm", "SysV shmat outside segment", |o| {
        let segment = call(Call::SHMGET, &mut [o.key(), Number(0), Number(0)])?;
        numbers(Call::SHMAT, [segment, 0, 0])
    }),
    Attempt::new(12, "sysv_semaphore", "SysV semaphore outside", |o| {
        let set = call(Call::SEMGET, &mut [o.key(), Number(0), Number(0)])?;
        numbers(Call::SEMCTL, [set, 0, GETVAL, 0])
    }),
    Attempt::new(12, "sysv_queue", "SysV msg queue outside", sysv_queue),
    Attempt::new(12, "add_key", "add_key to user keyring", add_key),
    Attempt::new(12, "read_keyring", "keyctl read user keyring", |_| {
        numbers(Call::KEYCTL_LENGTH, [READ, USER_KEYRING, 0, 0])
    }),
    Attempt::new(
        12,
        "describe_keyring",
        "keyctl describe user keyring",
        |_| numbers(Call::KEYCTL_LENGTH, [DESCRIBE, USER_KEYRING, 0, 0]),
    ),
];

const GETVAL: i64 = 12;
const DESCRIBE: i64 = 6;
const UNLINK: i64 = 9;
const READ: i64 = 11;
const USER_KEYRING: i64 = -4;

fn create_shm(_: &Outside) -> Attempted {
    let path = format!("/dev/shm/portolan-selftest-{}", getpid());
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::RDWR;
    rustix::fs::open(&path, flags, Mode::RUSR)?;
    Ok(rustix::fs::unlink(&path)?)
}

/// One byte, of type 1.
fn sysv_queue(outside: &Outside) -> Attempted {
    let queue = call(Call::MSGGET, &mut [outside.key(), Number(0)])?;
    let mut message = 1_u64.to_ne_bytes().to_vec();
    message.push(b'x');
    const NO_WAIT: i64 = 0o4000;
    let message = Read(&message);
    call(
        Call::MSGSND,
        &mut [Number(queue), message, Number(1), Number(NO_WAIT)],
    )?;
    Ok(())
}

fn add_key(_: &Outside) -> Attempted {
    const NAME: &CStr = c"portolan-selftest";
    let payload = Read(b"x");
    let arguments = &mut [
        Text(c"user"),
        Text(NAME),
        payload,
        Number(1),
        Number(USER_KEYRING),
    ];
    let key = call(Call::ADD_KEY, arguments)?;
    numbers(Call::KEYCTL_UNLINK, [UNLINK, key, USER_KEYRING])
}

//! What can happen, as data that stays meaningful when other steps are left out: a number stands
//! for whatever it selects among what is there.

/// One thing that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// A job file is loaded.
    Load {
        job: u8,
    },
    /// The server is told to end, and another one starts with nothing.
    Restart,
    Unload {
        job: u8,
    },
    Enable {
        job: u8,
    },
    Disable {
        job: u8,
    },
    Stop {
        job: u8,
    },
    Kickstart {
        job: u8,
        kill: bool,
    },
    /// A client sends to a service.
    Message {
        service: u8,
    },
    /// The instance receives a message.
    Receive {
        service: u8,
    },
    /// Somebody checks a service in: a job, which may be the wrong one, or a client.
    CheckIn {
        by: u8,
        service: u8,
    },
    /// Somebody registers a port, or nothing, under the name of a service.
    Register {
        by: u8,
        service: u8,
        nothing: bool,
    },
    ClientExits,
    /// The instance closes a receive right.
    Close {
        service: u8,
    },
    /// The driver reports the demand that it sees.
    Poll,
    /// The driver has carried out a start.
    Answer {
        pick: u8,
        succeeds: bool,
    },
    Exit {
        pick: u8,
        how: u8,
    },
    /// An instance crashes, and so do those after it.
    CrashLoop {
        pick: u8,
    },
    TryExit {
        pick: u8,
    },
    Ready {
        pick: u8,
    },
    Connection {
        job: u8,
    },
    PathChanges {
        job: u8,
    },
    PathState {
        job: u8,
        exists: bool,
    },
    ProgramAppears {
        job: u8,
    },
    /// Time passes, and timers come when they are due.
    Pass {
        millis: u32,
    },
    /// Time passes while nobody runs.
    Jump {
        seconds: u32,
    },
    /// The clock on the wall is set.
    SetClock {
        day: u8,
        minute: u16,
    },
}

/// A random sequence.
pub(crate) fn steps(seed: u64, count: usize) -> Vec<Step> {
    let mut random = Random(seed);
    (0..count).map(|_| random.step()).collect()
}

/// xorshift64* (Vigna 2016), another generator than the supervisor's.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x1234_5678_9abc_def1);
        let mut x = self.0;
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        (x.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % limit
    }

    fn byte(&mut self) -> u8 {
        self.below(256) as u8
    }

    fn flag(&mut self) -> bool {
        self.below(2) == 0
    }

    fn step(&mut self) -> Step {
        match self.below(200) {
            0..12 => Step::Load { job: self.byte() },
            12 => Step::Restart,
            13 => Step::CrashLoop { pick: self.byte() },
            14..16 => Step::Unload { job: self.byte() },
            16..19 => Step::Disable { job: self.byte() },
            19..24 => Step::Enable { job: self.byte() },
            24..28 => Step::Stop { job: self.byte() },
            28..31 => self.kickstart(),
            31..61 => Step::Message {
                service: self.byte(),
            },
            61..71 => Step::Receive {
                service: self.byte(),
            },
            71..91 => self.check_in(),
            91..93 => self.register(),
            93..95 => Step::ClientExits,
            95..98 => Step::Close {
                service: self.byte(),
            },
            98..118 => Step::Poll,
            118..143 => self.answer(),
            143..161 => Step::Exit {
                pick: self.byte(),
                how: self.byte(),
            },
            161..165 => Step::TryExit { pick: self.byte() },
            165..167 => Step::Ready { pick: self.byte() },
            167..171 => Step::Connection { job: self.byte() },
            171..173 => Step::PathChanges { job: self.byte() },
            173..176 => Step::PathState {
                job: self.byte(),
                exists: self.flag(),
            },
            176..178 => Step::ProgramAppears { job: self.byte() },
            178..196 => self.pass(),
            196..198 => Step::Jump {
                seconds: self.below(2000) as u32,
            },
            _ => self.set_clock(),
        }
    }

    fn kickstart(&mut self) -> Step {
        Step::Kickstart {
            job: self.byte(),
            kill: self.flag(),
        }
    }

    fn check_in(&mut self) -> Step {
        Step::CheckIn {
            by: self.byte(),
            service: self.byte(),
        }
    }

    fn register(&mut self) -> Step {
        let (by, service) = (self.byte(), self.byte());
        Step::Register {
            by,
            service,
            nothing: self.flag(),
        }
    }

    fn answer(&mut self) -> Step {
        Step::Answer {
            pick: self.byte(),
            succeeds: self.below(5) > 0,
        }
    }

    /// Mostly short times; now and then long ones.
    fn pass(&mut self) -> Step {
        let limit = [20, 500, 500, 5000, 5000, 40_000][self.below(6) as usize];
        Step::Pass {
            millis: self.below(limit) as u32,
        }
    }

    fn set_clock(&mut self) -> Step {
        let (day, minute) = (self.below(28) as u8 + 1, self.below(1440) as u16);
        Step::SetClock { day, minute }
    }
}

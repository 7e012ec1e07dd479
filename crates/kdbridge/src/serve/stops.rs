//! How a debugger is told that the machine stopped.

use std::fmt::Write;

use super::client::Talk;
use super::dialect::Dialect;
use super::machine::Machine;
use crate::rsp::hex;
use crate::target::{Cpu, Stop, Target, TargetError, Trap};

const SIGINT: u8 = 2;
const SIGTRAP: u8 = 5;

/// Of so many threads it is not told where each is: a kernel with kgdb takes long for that.
const MANY: usize = 64;

impl<T: Target> Machine<T> {
    /// The answer to what made the machine run.
    pub(super) fn news(&mut self, talk: &Talk) -> Result<String, TargetError> {
        match self.news_of_libraries() {
            Some(cpu) => self.library_stop(cpu, talk),
            None => self.stop_reply(talk),
        }
    }

    /// That there are other modules, and nothing else.
    pub(super) fn library_stop(&mut self, cpu: Cpu, talk: &Talk) -> Result<String, TargetError> {
        let thread = cpu.0 + 1;
        // Without a signal LLDB sees no reason to stop. Both go on when they have read the list.
        let (signal, value) = match talk.dialect {
            Dialect::Gdb => (SIGTRAP, ""),
            Dialect::Lldb => (0, "1"),
        };
        // LLDB takes any stop for the one that it has asked for.
        self.hooks.interrupted &= talk.dialect == Dialect::Gdb;
        let mut reply = format!("T{signal:02x}thread:{thread:x};library:{value};");
        self.push_threads(&mut reply, talk)?;
        Ok(reply)
    }

    /// The answer to `?`. A machine that runs is not asked for it: a debugger that connects then is told of a
    /// stop, without which it would not connect, and why it gets nothing else.
    pub(super) fn stop_reply(&mut self, talk: &Talk) -> Result<String, TargetError> {
        let stop = self.stop.unwrap_or(Stop::Interrupted(self.first_cpu()));
        let signal = match stop {
            Stop::Interrupted(_) => SIGINT,
            Stop::Signal(_, signal) => signal,
            Stop::Breakpoint(_) | Stop::Watchpoint(..) | Stop::Stepped(_) => SIGTRAP,
        };
        let mut reply = format!("T{signal:02x}thread:{:x};", stop.cpu().0 + 1);
        match stop {
            Stop::Watchpoint(_, at) => push(&mut reply, format_args!("watch:{at:x};")),
            Stop::Breakpoint(cpu) if self.amd64 && !self.is_running() => {
                let rip = self.target.registers(cpu)?.rip;
                if self.traps.contains(&(rip, Trap::Software)) {
                    reply += "swbreak:;";
                } else if self.traps.contains(&(rip, Trap::Hardware)) {
                    reply += "hwbreak:;";
                }
            }
            _ => {}
        }
        let known = talk.knows_libraries == Some(self.libraries_state());
        let outdated = !known && !self.is_running() && self.may_have_kernel();
        let outdated = outdated && self.options.modules.are_for_lldb();
        if talk.dialect == Dialect::Lldb && outdated {
            // It asks for the modules only when it is told that there are others.
            reply += "library:1;";
        }
        if talk.dialect == Dialect::Lldb {
            self.push_registers(&mut reply, stop.cpu())?;
        }
        self.push_threads(&mut reply, talk)?;
        Ok(reply)
    }

    /// Where the processor is and its stack: what LLDB asks for at each stop, one by one.
    fn push_registers(&mut self, reply: &mut String, cpu: Cpu) -> Result<(), TargetError> {
        if !self.amd64 || self.is_running() {
            return Ok(());
        }
        let registers = self.target.registers(cpu)?;
        for (number, value) in registers.expedited() {
            let digits = hex::encode(&value.to_le_bytes());
            push(reply, format_args!("{number:02x}:{digits};"));
        }
        Ok(())
    }

    /// All threads, and where they are: LLDB then asks less.
    fn push_threads(&mut self, reply: &mut String, talk: &Talk) -> Result<(), TargetError> {
        if !talk.list_threads || self.is_running() {
            return Ok(());
        }
        push(reply, format_args!("threads:{};", self.threads()));
        if !self.amd64 || self.cpus.len() > MANY {
            return Ok(());
        }
        let mut places = Vec::new();
        for cpu in self.cpus.clone() {
            places.push(format!("{:x}", self.target.registers(cpu)?.rip));
        }
        push(reply, format_args!("thread-pcs:{};", places.join(",")));
        Ok(())
    }
}

fn push(reply: &mut String, text: std::fmt::Arguments<'_>) {
    // A `String` takes everything.
    reply.write_fmt(text).ok();
}

//! KDP in front of a real machine.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use kdbridge::kdp::{KdpTarget, UdpLink};
use kdbridge::rsp::target::PATIENCE;
use kdbridge::target::{Cpu, Memory, Stop, Target, Trap};
use rustix::process::{Pid, Signal, kill_process};

use crate::lab_target::connect;
use crate::machine::Machine;

/// A process that is ended with the test.
struct Bridge(Child);

impl Drop for Bridge {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn serve(machine: &Machine) -> (Bridge, UdpLink) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kdbridge"));
    command.arg("serve-kdp").arg(machine.stub());
    command
        .args(["--listen", "127.0.0.1:0"])
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut lines = lines.map_while(Result::ok);
    let line = lines.find(|line| line.contains("kdp-remote")).unwrap();
    let address = line.rsplit(' ').next().unwrap().parse().unwrap();
    (Bridge(child), UdpLink::connect(address).unwrap())
}

#[test]
fn a_machine_is_debugged_over_kdp() {
    let mut machine = Machine::boot();
    let (handler, mut code) = {
        let mut direct = connect(&machine);
        let handler = crate::lab_target::page_fault(&mut direct);
        let mut code = [0; 3000];
        direct.read(handler, &mut code).unwrap();
        direct.detach().unwrap();
        (handler, code)
    };
    let (mut bridge, link) = serve(&machine);
    let mut target = KdpTarget::attach(link).unwrap();
    let expected = code;
    target.read(handler, &mut code).unwrap();
    assert_eq!(code, expected);

    target.set(handler, Trap::Software).unwrap();
    target.read(handler, &mut code).unwrap();
    assert_eq!(code, expected);
    target.resume().unwrap();
    machine.send("ls /proc >/dev/null");
    let stop = target.wait(4 * PATIENCE).unwrap();
    assert_eq!(stop, Some(Stop::Breakpoint(Cpu(0))));
    let before = target.registers(Cpu(0)).unwrap();
    assert_eq!(before.rip, handler);
    target.clear(handler, Trap::Software).unwrap();
    target.step(Cpu(0)).unwrap();
    assert_eq!(
        target.wait(4 * PATIENCE).unwrap(),
        Some(Stop::Stepped(Cpu(0)))
    );
    assert_ne!(target.registers(Cpu(0)).unwrap().rip, handler);

    target.detach().unwrap();
    assert!(machine.uptime() > 0.0);
    let pid = Pid::from_child(&bridge.0);
    kill_process(pid, Signal::TERM).unwrap();
    assert!(bridge.0.wait().unwrap().success());
    assert_eq!(target.wait(Duration::ZERO).unwrap(), None);
    assert!(machine.uptime() > 0.0);
}

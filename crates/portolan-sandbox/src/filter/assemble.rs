//! From the table to a program of the kernel's old packet filter, see seccomp(2).
//!
//! The number of the call is looked for by halving, so each call costs a dozen comparisons and not
//! hundreds. A `jump_true` reaches 255 instructions; whatever may be further away is reached with a
//! jump of its own.

use std::iter;

use portolan_sys::confine::Instruction;

use super::table::{CALLS, Case, Condition, ENOSYS, Rule};
use super::{Allowances, Architecture, Wait};

pub(super) const KILL_PROCESS: u32 = 0x8000_0000;
pub(super) const ALLOW: u32 = 0x7fff_0000;
pub(super) const ERRNO: u32 = 0x0005_0000;
pub(super) const WAIT: u32 = 0x7fc0_0000;

/// Operations of `linux/bpf_common.h`.
pub(super) const LOAD: u16 = 0x20;
pub(super) const AND: u16 = 0x54;
pub(super) const JUMP: u16 = 0x05;
pub(super) const JUMP_EQUAL: u16 = 0x15;
pub(super) const JUMP_GREATER_EQUAL: u16 = 0x35;
pub(super) const RETURN: u16 = 0x06;

/// Offsets in `struct seccomp_data`. Both architectures have the lower half of an argument first.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

/// Set in the numbers of x32 calls (`__X32_SYSCALL_BIT`).
pub(super) const X32: u32 = 0x4000_0000;

/// `waits` says which of a call's outcomes somebody is asked about.
pub(super) fn assemble(
    architecture: Architecture,
    allowances: Allowances,
    waits: impl Fn(&str) -> Wait,
) -> Vec<Instruction> {
    let mut program = vec![
        step(LOAD, ARCHITECTURE),
        skip(JUMP_EQUAL, architecture.token(), 1, 0),
        step(RETURN, KILL_PROCESS),
        step(LOAD, NUMBER),
    ];
    if architecture == Architecture::X86_64 {
        // -1 is no call of x32 but what a tracer puts in place of a call that it skips.
        program.extend([
            skip(JUMP_GREATER_EQUAL, X32, 0, 3),
            skip(JUMP_EQUAL, u32::MAX, 1, 0),
            step(RETURN, KILL_PROCESS),
            step(RETURN, ERRNO | u32::from(ENOSYS)),
        ]);
    }
    program.extend(search(&ranges(architecture, waits), allowances));
    program
}

/// The rule for the calls from this number up to the next range.
struct Range {
    start: u32,
    rule: Rule,
    wait: Wait,
}

/// The rule for calls that are not in the table.
const UNKNOWN: Rule = Rule {
    cases: &[],
    errno: ENOSYS,
};

fn ranges(architecture: Architecture, waits: impl Fn(&str) -> Wait) -> Vec<Range> {
    let known = CALLS.iter().filter_map(|(name, numbers, rule)| {
        let start = architecture.one_of(*numbers)?;
        let (rule, wait) = (*rule, waits(name));
        Some(Range { start, rule, wait })
    });
    let mut known: Vec<_> = known.collect();
    known.sort_by_key(|range| range.start);
    let following = known.iter().skip(1).map(|range| range.start);
    let following: Vec<u32> = following.chain(iter::once(u32::MAX)).collect();
    let unknown = |start| Range {
        start,
        rule: UNKNOWN,
        wait: Wait::Never,
    };
    let mut ranges = vec![unknown(0)];
    for (range, next) in known.into_iter().zip(following) {
        let behind = range.start + 1;
        add(&mut ranges, range);
        if next > behind {
            add(&mut ranges, unknown(behind));
        }
    }
    ranges
}

fn add(ranges: &mut Vec<Range>, range: Range) {
    match ranges.last_mut() {
        Some(last) if (last.rule, last.wait) == (range.rule, range.wait) => {}
        Some(last) if last.start == range.start => *last = range,
        _ => ranges.push(range),
    }
}

fn search(ranges: &[Range], allowances: Allowances) -> Vec<Instruction> {
    let (lower, upper) = ranges.split_at(ranges.len() / 2);
    let (Some(first), false) = (upper.first(), lower.is_empty()) else {
        let range = ranges.first();
        return range.map_or_else(Vec::new, |range| decide(range, allowances));
    };
    let below = search(lower, allowances);
    let mut program = vec![
        skip(JUMP_GREATER_EQUAL, first.start, 0, 1),
        step(JUMP, distance(below.len())),
    ];
    program.extend(below);
    program.extend(search(upper, allowances));
    program
}

fn decide(range: &Range, allowances: Allowances) -> Vec<Instruction> {
    let Range { rule, wait, .. } = range;
    let allowed = match wait {
        Wait::Allowed => WAIT,
        _ => ALLOW,
    };
    let (met, lacking): (Vec<&Case>, Vec<&Case>) =
        { rule.cases.iter() }.partition(|case| case.needs.are_met(allowances));
    let lacking = lacking.into_iter();
    let lacking = lacking.filter(|case| *wait == Wait::Lacking && case.needs.are_of_the_network());
    let met = met.into_iter().map(|case| (case, allowed));
    let mut program = Vec::new();
    for (case, answer) in met.chain(lacking.map(|case| (case, WAIT))) {
        program.extend(check(case.conditions, answer));
        if case.conditions.is_empty() {
            return program;
        }
    }
    program.push(step(RETURN, ERRNO | u32::from(rule.errno)));
    program
}

/// Returns the answer if all conditions hold, else goes to what follows.
fn check(conditions: &[Condition], answer: u32) -> Vec<Instruction> {
    let Some((first, others)) = conditions.split_first() else {
        return vec![step(RETURN, answer)];
    };
    let rest = check(others, answer);
    let missed = step(JUMP, distance(rest.len()));
    let mut program = match *first {
        Condition::OneOf(argument, mask, values) => {
            let mut program = load(argument, mask);
            program.extend(jumps_behind(values));
            program.push(missed);
            program
        }
        Condition::Null(argument) => vec![
            step(LOAD, offset(argument)),
            skip(JUMP_EQUAL, 0, 0, 2),
            step(LOAD, offset(argument) + 4),
            skip(JUMP_EQUAL, 0, 1, 0),
            missed,
        ],
    };
    program.extend(rest);
    program
}

/// If the argument is one of the values, what follows next is skipped.
fn jumps_behind(values: &[u32]) -> impl Iterator<Item = Instruction> {
    let to_the_end = (1..=values.len()).rev();
    let jumps = values.iter().zip(to_the_end);
    jumps.map(|(value, behind)| skip(JUMP_EQUAL, *value, short(behind), 0))
}

fn load(argument: u8, mask: u32) -> Vec<Instruction> {
    let mut program = vec![step(LOAD, offset(argument))];
    if mask != u32::MAX {
        program.push(step(AND, mask));
    }
    program
}

fn offset(argument: u8) -> u32 {
    ARGUMENTS + 8 * u32::from(argument)
}

const fn step(code: u16, operand: u32) -> Instruction {
    skip(code, operand, 0, 0)
}

const fn skip(code: u16, operand: u32, jump_true: u8, jump_false: u8) -> Instruction {
    Instruction {
        code,
        jump_true,
        jump_false,
        operand,
    }
}

/// The kernel refuses programs far shorter than what this could not express.
fn distance(instructions: usize) -> u32 {
    u32::try_from(instructions).unwrap_or(u32::MAX)
}

/// No list of values in the table is that long; the tests would find one that is.
fn short(instructions: usize) -> u8 {
    u8::try_from(instructions).unwrap_or(u8::MAX)
}

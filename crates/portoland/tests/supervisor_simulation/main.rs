//! The registry and the supervisor under long random sequences of events, with rules that are
//! checked after each.
//!
//! `PORTOLAN_STEPS` is how many steps are taken, `PORTOLAN_SEED` where they begin: a failure names
//! the seed of its sequence, and the shortest sequence that still fails.

mod shrink;
mod step;
mod world;

use shrink::shrink;
use step::{Step, steps};
use world::{Fault, Violation, World};

/// Steps of one sequence, which begins with nothing loaded.
const LENGTH: usize = 500;

/// Steps that anybody can follow.
const SHORT: usize = 20;

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().expect("a number"))
}

/// Takes the steps, and then has everybody behave until all messages have been received.
fn run(steps: &[Step], fault: Fault) -> Result<(), Violation> {
    let mut world = World::new(fault);
    for step in steps {
        world.take(*step)?;
    }
    world.come_to_rest()
}

#[test]
fn a_random_walk_keeps_the_rules() {
    let first = number("PORTOLAN_SEED", 1);
    let sequences = number("PORTOLAN_STEPS", 100_000).div_ceil(LENGTH as u64);
    for seed in first..first + sequences {
        let steps = steps(seed, LENGTH);
        if let Err(violation) = run(&steps, Fault::None) {
            let shortest = shrink(&steps, |steps| run(steps, Fault::None));
            panic!("PORTOLAN_SEED={seed}: {violation}\n{shortest:#?}");
        }
    }
}

#[test]
fn a_driver_that_is_broken_is_found_out_by_a_short_sequence() {
    for fault in [Fault::NeverRearms, Fault::IgnoresKill, Fault::StartsTwice] {
        let mut seeds = 1..200;
        let failing = seeds.find_map(|seed| {
            let steps = steps(seed, LENGTH);
            run(&steps, fault).is_err().then_some(steps)
        });
        let failing = failing.unwrap_or_else(|| panic!("{fault:?} is not found"));
        let shortest = shrink(&failing, |steps| run(steps, fault));
        let count = shortest.len();
        assert!(count <= SHORT, "{fault:?}: {count} steps, {shortest:#?}");
        assert!(run(&shortest, fault).is_err());
        assert_eq!(run(&shortest, Fault::None).map_err(|it| it.rule), Ok(()));
    }
}

//! What a careless parent leaves open (statement 18).

use portolan_sys::inherit::duplicate;

use super::super::attempt::{Attempt, Refusal};
use super::super::outside::Outside;
use super::Attempted;

pub(super) const ATTEMPTS: &[Attempt] = &[
    Attempt::new(18, "descriptor_50", "inherited fd 50 leak", |_| {
        duplicate(50)?;
        Ok(())
    }),
    Attempt::new(18, "any_descriptor", "any fd >3 inherited", any_descriptor),
];

fn any_descriptor(_: &Outside) -> Attempted {
    match (4..1024).any(|number| duplicate(number).is_ok()) {
        true => Ok(()),
        false => Err(Refusal::Nothing),
    }
}

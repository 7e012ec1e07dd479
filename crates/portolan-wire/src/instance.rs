//! How the processes of one run of a program are told from others.

use crate::label::JobLabel;

/// Environment variable of all processes of an instance, as long as they do not change it before
/// they execute a program. Its value is the [`mark`] of the instance; one that runs inside another has
/// that of the other and its own, each on a line.
pub const VARIABLE: &str = "PORTOLAN_INSTANCE";

/// The value of [`VARIABLE`], for an instance with a number that no other one has.
///
/// ```
/// let label = "org.example.a".parse()?;
/// assert_eq!(portolan_wire::instance::mark(&label, 255), "org.example.a/00000000000000ff");
/// # Ok::<(), portolan_wire::label::LabelError>(())
/// ```
#[must_use]
pub fn mark(label: &JobLabel, instance: u64) -> String {
    format!("{label}/{instance:016x}")
}

//! `kdbridge print`: the value of an expression.

use std::fmt;

use serde::Serialize;

use crate::expression::{Place, Problem};
use crate::kernel::Kernel;
use crate::target::Memory;

/// What an expression comes to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Printed {
    /// The expression.
    pub expression: String,
    /// Its type, as C has it.
    #[serde(rename = "type")]
    pub ty: String,
    /// Where the value is, if it is in memory.
    pub address: Option<String>,
    /// The value, as GDB writes it.
    pub value: String,
}

/// Works out an expression; variables that each processor has for itself are those of `cpu`.
///
/// # Errors
///
/// [`Problem`] says what is wrong with it, and where.
pub fn print(
    memory: &mut dyn Memory,
    kernel: &mut Kernel,
    expression: &str,
    cpu: u32,
) -> Result<Printed, Problem> {
    let value = kernel.evaluate(memory, expression, cpu)?;
    let shown = kernel.show(memory, value);
    let shown = shown.map_err(|kind| Problem { at: 0, kind })?;
    let address = match value.place {
        Place::Memory(at) | Place::Bits(at, ..) => Some(format!("{at:#x}")),
        Place::Computed(_) => None,
    };
    Ok(Printed {
        expression: expression.to_owned(),
        ty: kernel.types().name(value.ty),
        address,
        value: shown,
    })
}

impl fmt::Display for Printed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} = {}", self.expression, self.value)
    }
}

//! Names in expressions are those of a kernel.

use super::{Kernel, KernelError, Kind, Tag, Type, TypeId, Types};
use crate::expression::{
    Place, Problem, ProblemKind, Scope, Value, bits_at, bytes_of, evaluate, number_of,
};
use crate::target::Memory;
use crate::types::Show;

/// A kernel as one of its processors sees it.
#[derive(Debug)]
struct OfCpu<'a> {
    kernel: &'a mut Kernel,
    cpu: u32,
}

impl Kernel {
    /// Works out an expression. Variables that each processor has for itself are those of `cpu`.
    ///
    /// # Errors
    ///
    /// [`Problem`] says what is wrong with it, and where.
    pub fn evaluate(
        &mut self,
        memory: &mut dyn Memory,
        text: &str,
        cpu: u32,
    ) -> Result<Value, Problem> {
        let mut scope = OfCpu { kernel: self, cpu };
        evaluate(text, &mut scope, memory)
    }

    /// Works out an expression that is an address: a number, or a function, an array or a symbol
    /// without a known type, which stand for where they are.
    ///
    /// # Errors
    ///
    /// [`Problem`] says what is wrong with it, and where.
    pub fn address(
        &mut self,
        memory: &mut dyn Memory,
        text: &str,
        cpu: u32,
    ) -> Result<u64, Problem> {
        let mut scope = OfCpu { kernel: self, cpu };
        let value = evaluate(text, &mut scope, memory)?;
        let address = number_of(value, &mut scope, memory);
        address.map_err(|kind| Problem { at: 0, kind })
    }

    /// Where what an expression names is, and how many bytes it has.
    ///
    /// # Errors
    ///
    /// [`Problem`] says what is wrong with it: it may lie in no memory, or be of no known size.
    pub fn extent(
        &mut self,
        memory: &mut dyn Memory,
        text: &str,
        cpu: u32,
    ) -> Result<(u64, u64), Problem> {
        let value = self.evaluate(memory, text, cpu)?;
        let size = self.types.size(value.ty);
        let extent = match (value.place, self.types.bare(value.ty)) {
            (Place::Memory(_), Type::Void) => Err(ProblemKind::NoType),
            (Place::Memory(at), _) => size.map(|size| (at, size)).ok_or(ProblemKind::NoSize),
            (Place::Bits(..) | Place::Computed(_), _) => Err(ProblemKind::NoAddress),
        };
        extent.map_err(|kind| Problem { at: 0, kind })
    }

    /// A value as text, as GDB writes it.
    ///
    /// # Errors
    ///
    /// [`ProblemKind`] if it cannot be read.
    pub fn show(&self, memory: &mut dyn Memory, value: Value) -> Result<String, ProblemKind> {
        let types = &self.types;
        let symbol = |address| self.shown_at(address);
        if let (Type::Void, Place::Memory(address)) = (types.bare(value.ty), value.place) {
            let name = self.shown_at(address).unwrap_or_default();
            return Ok(format!("{{no type is known}} {address:#x} {name}"));
        }
        let mut show = Show {
            types,
            symbol: &symbol,
            memory,
        };
        match value.place {
            Place::Bits(address, offset, bits) => {
                let number = bits_at(show.memory, address, offset, bits)?;
                Ok(show.number(value.ty, number, bits))
            }
            Place::Memory(address) => {
                let size = types.size(value.ty).unwrap_or_default();
                let bytes = bytes_of(value, size, show.memory)?;
                Ok(show.value(value.ty, &bytes, address))
            }
            Place::Computed(_) => {
                let size = types.size(value.ty).unwrap_or(8);
                let bytes = bytes_of(value, size, show.memory)?;
                Ok(show.value(value.ty, &bytes, 0))
            }
        }
    }

    /// The type of what is at `address`, by the debug information of the kernel or of the module that
    /// has this name.
    fn type_of(
        &mut self,
        name: &str,
        kind: Kind,
        address: u64,
    ) -> Result<Option<TypeId>, ProblemKind> {
        if kind == Kind::Function {
            let (result, parameters) = (TypeId::VOID, Vec::new());
            let target = self.types.add(Type::Function { result, parameters });
            let name = "<function>".to_owned();
            return Ok(Some(self.types.add(Type::Named { name, target })));
        }
        let own = self.symbols.by_name(name).map(|it| it.address);
        let (debug, linked) = match own {
            Some(linked) => (self.debug.as_mut(), linked),
            None => {
                let mut modules = self.modules.iter_mut();
                let loaded = modules.find(|it| it.symbols.by_name(name).is_some());
                let linked = loaded.as_ref().map_or(address, |it| it.linked(address));
                (loaded.and_then(|it| it.debug()), linked)
            }
        };
        let found = debug.map(|it| it.variable(name, linked, &mut self.types));
        let found = found.transpose().map_err(ProblemKind::DebugInfo)?.flatten();
        Ok(found.or_else(|| self.types.variable(name)))
    }
}

impl Scope for OfCpu<'_> {
    fn variable(
        &mut self,
        memory: &mut dyn Memory,
        name: &str,
        cpu: Option<u32>,
    ) -> Result<(u64, Option<TypeId>), ProblemKind> {
        let found = self.kernel.find(name);
        let (kind, mut address) = found.ok_or_else(|| ProblemKind::NoSymbol(name.to_owned()))?;
        if kind == Kind::PerCpu {
            let cpu = cpu.unwrap_or(self.cpu);
            let base = self.kernel.per_cpu_base(memory, cpu);
            let base = base.map_err(|error| match error {
                KernelError::Target(error) => ProblemKind::Target(error),
                _ => ProblemKind::NoCpu(cpu.into()),
            })?;
            address = address.wrapping_add(base);
        } else if cpu.is_some() {
            return Err(ProblemKind::NotPerCpu);
        }
        Ok((address, self.kernel.type_of(name, kind, address)?))
    }

    fn named_type(&mut self, tag: Tag, name: &str) -> Option<TypeId> {
        self.kernel.find_type(tag, name)
    }

    fn types(&mut self) -> &mut Types {
        &mut self.kernel.types
    }
}

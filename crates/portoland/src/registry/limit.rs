//! How many names there can be, and whose.

use std::fmt;

use super::entry::Holder;
use super::{
    ClientKey, MAX_CLIENTS_PER_PROGRAM, MAX_NAMES, MAX_NAMES_PER_CLIENT, Owner, ProgramKey,
    Registry,
};

/// What keeps a name from being published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Limit {
    /// There are [`MAX_NAMES`].
    Names,
    /// The process, job or confined program has [`MAX_NAMES_PER_CLIENT`].
    NamesOfOne,
    /// The confined program has [`MAX_CLIENTS_PER_PROGRAM`] processes that have had names.
    Clients,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Names => write!(f, "there are {MAX_NAMES} names already"),
            Self::NamesOfOne => write!(
                f,
                "a process, a job or a confined program has {MAX_NAMES_PER_CLIENT} names at the most"
            ),
            Self::Clients => write!(
                f,
                "{MAX_CLIENTS_PER_PROGRAM} processes of a confined program publish names at the most"
            ),
        }
    }
}

impl Registry {
    /// What keeps an owner from having another name.
    #[must_use]
    pub fn limit_of(&self, owner: Owner) -> Option<Limit> {
        let holder = self.holders.get(&owner);
        let of_one = holder.map_or(0, |holder| self.names_beside(holder));
        if of_one >= MAX_NAMES_PER_CLIENT {
            Some(Limit::NamesOfOne)
        } else if self.names.len() >= MAX_NAMES {
            Some(Limit::Names)
        } else {
            None
        }
    }

    /// What keeps a process, which may be known, from being counted to a confined program.
    #[must_use]
    pub fn limit_of_program(
        &self,
        program: ProgramKey,
        client: Option<ClientKey>,
    ) -> Option<Limit> {
        let holder = client.and_then(|client| self.holders.get(&client.into()));
        let is_counted = holder.is_some_and(|holder| holder.program.is_some());
        let clients = self
            .programs
            .get(&program)
            .map_or(0, |clients| clients.len());
        (!is_counted && clients >= MAX_CLIENTS_PER_PROGRAM).then_some(Limit::Clients)
    }

    /// The names that count as one's: those of all processes of a confined program.
    fn names_beside(&self, holder: &Holder) -> usize {
        let program = holder.program.and_then(|key| self.programs.get(&key));
        let Some(clients) = program else {
            return holder.names.len();
        };
        let holders = clients
            .iter()
            .filter_map(|client| self.holders.get(&(*client).into()));
        holders.map(|holder| holder.names.len()).sum()
    }

    pub(super) fn leave_program(&mut self, client: ClientKey) {
        let holder = self.holders.get(&client.into());
        let Some(program) = holder.and_then(|holder| holder.program) else {
            return;
        };
        if let Some(clients) = self.programs.get_mut(&program) {
            clients.remove(&client);
            if clients.is_empty() {
                self.programs.remove(&program);
            }
        }
    }
}

//! Which kernel was found.

use crate::discover::{linux, xnu};

/// A kernel, and how it was found.
#[derive(Debug, Clone)]
pub enum Found {
    /// Linux.
    Linux(linux::Kernel),
    /// XNU, of macOS and others.
    Xnu(xnu::Kernel),
}

impl Found {
    /// What it calls itself; empty if it could not be read.
    #[must_use]
    pub fn version(&self) -> &str {
        match self {
            Self::Linux(kernel) => &kernel.version,
            Self::Xnu(kernel) => &kernel.version,
        }
    }

    /// By what it was found.
    #[must_use]
    pub fn method(&self) -> String {
        match self {
            Self::Linux(kernel) => kernel.method.to_string(),
            Self::Xnu(kernel) => kernel.method.to_string(),
        }
    }

    /// The build-id by which Linux and its file know each other.
    #[must_use]
    pub fn build_id(&self) -> Option<String> {
        match self {
            Self::Linux(kernel) => kernel.build_id.as_ref().map(ToString::to_string),
            Self::Xnu(_) => None,
        }
    }

    /// The UUID by which XNU and its files know each other.
    #[must_use]
    pub fn uuid(&self) -> Option<String> {
        match self {
            Self::Linux(_) => None,
            Self::Xnu(kernel) => Some(kernel.uuid.to_string()),
        }
    }

    /// Where its text begins.
    #[must_use]
    pub fn text(&self) -> u64 {
        match self {
            Self::Linux(kernel) => kernel.text,
            Self::Xnu(kernel) => kernel.base,
        }
    }

    /// Whether it is Linux of before 6.4.
    pub(super) fn is_before_6_4(&self) -> bool {
        let Self::Linux(kernel) = self else {
            return false;
        };
        let numbers = kernel.release().split(|it: char| !it.is_ascii_digit());
        let mut numbers = numbers.map(|it| it.parse::<u32>().ok());
        let mut next = || numbers.next().flatten();
        (next(), next()) < (Some(6), Some(4))
    }
}

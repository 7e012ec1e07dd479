//! A profile as bytes, for the launcher that was built together with this. Numbers are
//! little-endian; a text is its length as 32 bits and its bytes, a list its length and its items.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use portolan_wire::label::{JobLabel, LabelError};
use thiserror::Error;

use super::{Excepted, Exception, Profile, Tier};
use crate::entitlements::Folder;

/// Changed with every change of what follows.
const MAGIC: &[u8] = b"portolan profile 4\n";

/// Bytes are not a profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// They begin differently: written by another version of the launcher's starter, for example.
    #[error("it is another version's")]
    Version,
    /// They end too early.
    #[error("it ends too early")]
    Short,
    /// There are more than there should be.
    #[error("it goes on after its end")]
    Long,
    /// A tier or a flag has a value that means nothing.
    #[error("{0} means nothing there")]
    Value(u8),
    /// The label is none.
    #[error("its label is none")]
    Label(#[from] LabelError),
}

pub(super) fn encode(profile: &Profile) -> Vec<u8> {
    let Profile {
        label,
        program,
        tier,
        container,
        group_containers,
        groups,
        home,
        exceptions,
        kept_out,
        environment,
        client,
        server,
    } = profile;
    let mut bytes = MAGIC.to_vec();
    let tier = match tier {
        Tier::T1 => 1,
        Tier::T2 => 2,
    };
    bytes.extend([tier, u8::from(*client), u8::from(*server)]);
    put_text(&mut bytes, label.as_str().as_bytes());
    put_path(&mut bytes, program);
    put_path(&mut bytes, container);
    put_path(&mut bytes, group_containers);
    put_paths(&mut bytes, groups);
    put_path(&mut bytes, home);
    put_len(&mut bytes, exceptions.len());
    for Exception { what, write } in exceptions {
        bytes.push(u8::from(*write));
        put_excepted(&mut bytes, what);
    }
    put_paths(&mut bytes, kept_out);
    put_len(&mut bytes, environment.len());
    for (name, value) in environment {
        put_text(&mut bytes, name.as_bytes());
        put_text(&mut bytes, value.as_bytes());
    }
    bytes
}

fn put_excepted(bytes: &mut Vec<u8>, what: &Excepted) {
    match what {
        Excepted::File(path) => {
            bytes.push(FILE);
            put_path(bytes, path);
        }
        Excepted::Tree(path) => {
            bytes.push(TREE);
            put_path(bytes, path);
        }
        Excepted::Folder(folder) => {
            let number = Folder::ALL.iter().position(|known| known == folder);
            bytes.push(FOLDER);
            put_len(bytes, number.unwrap_or(Folder::ALL.len()));
        }
    }
}

/// Kinds of what is excepted.
const FILE: u8 = 0;
const TREE: u8 = 1;
const FOLDER: u8 = 2;

fn put_paths(bytes: &mut Vec<u8>, paths: &[PathBuf]) {
    put_len(bytes, paths.len());
    for path in paths {
        put_path(bytes, path);
    }
}

fn put_path(bytes: &mut Vec<u8>, path: &Path) {
    put_text(bytes, path.as_os_str().as_bytes());
}

fn put_text(bytes: &mut Vec<u8>, text: &[u8]) {
    put_len(bytes, text.len());
    bytes.extend_from_slice(text);
}

/// What is longer than 4 GiB is longer than what is read.
fn put_len(bytes: &mut Vec<u8>, len: usize) {
    let len = u32::try_from(len).unwrap_or(u32::MAX);
    bytes.extend_from_slice(&len.to_le_bytes());
}

pub(super) fn decode(bytes: &[u8]) -> Result<Profile, DecodeError> {
    let rest = bytes.strip_prefix(MAGIC).ok_or(DecodeError::Version)?;
    let mut reader = Reader(rest);
    let tier = match reader.byte()? {
        1 => Tier::T1,
        2 => Tier::T2,
        other => return Err(DecodeError::Value(other)),
    };
    let (client, server) = (reader.flag()?, reader.flag()?);
    let profile = Profile {
        tier,
        client,
        server,
        label: JobLabel::from_bytes(reader.text()?)?,
        program: reader.path()?,
        container: reader.path()?,
        group_containers: reader.path()?,
        groups: reader.list(Reader::path)?,
        home: reader.path()?,
        exceptions: reader.list(|reader| {
            let write = reader.flag()?;
            let what = reader.excepted()?;
            Ok(Exception { what, write })
        })?,
        kept_out: reader.list(Reader::path)?,
        environment: reader.list(|reader| {
            let name = OsStr::from_bytes(reader.text()?).into();
            let value = OsStr::from_bytes(reader.text()?).into();
            Ok((name, value))
        })?,
    };
    match reader.0 {
        [] => Ok(profile),
        _ => Err(DecodeError::Long),
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn byte(&mut self) -> Result<u8, DecodeError> {
        let (byte, rest) = self.0.split_first().ok_or(DecodeError::Short)?;
        self.0 = rest;
        Ok(*byte)
    }

    fn flag(&mut self) -> Result<bool, DecodeError> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(DecodeError::Value(other)),
        }
    }

    fn len(&mut self) -> Result<usize, DecodeError> {
        let (len, rest) = self.0.split_first_chunk().ok_or(DecodeError::Short)?;
        self.0 = rest;
        usize::try_from(u32::from_le_bytes(*len)).map_err(|_| DecodeError::Short)
    }

    fn text(&mut self) -> Result<&'a [u8], DecodeError> {
        let len = self.len()?;
        let (text, rest) = self.0.split_at_checked(len).ok_or(DecodeError::Short)?;
        self.0 = rest;
        Ok(text)
    }

    fn path(&mut self) -> Result<PathBuf, DecodeError> {
        self.text().map(|text| OsStr::from_bytes(text).into())
    }

    fn excepted(&mut self) -> Result<Excepted, DecodeError> {
        match self.byte()? {
            FILE => self.path().map(Excepted::File),
            TREE => self.path().map(Excepted::Tree),
            FOLDER => {
                let folder = Folder::ALL.get(self.len()?);
                folder.map_or(Err(DecodeError::Value(FOLDER)), |folder| {
                    Ok(Excepted::Folder(*folder))
                })
            }
            other => Err(DecodeError::Value(other)),
        }
    }

    /// Every item takes at least a byte, so what is collected is no longer than what is read.
    fn list<T>(
        &mut self,
        mut item: impl FnMut(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<Vec<T>, DecodeError> {
        let len = self.len()?;
        let mut items = Vec::new();
        for _ in 0..len {
            items.push(item(self)?);
        }
        Ok(items)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_cut_or_changed_are_refused_or_read() {
        let profile = Profile {
            label: "a".parse().expect("a label"),
            program: "/p".into(),
            tier: Tier::T1,
            container: "/c".into(),
            group_containers: "/s".into(),
            groups: vec!["/g".into()],
            home: "/h".into(),
            exceptions: vec![
                Exception {
                    what: Excepted::Tree("/e".into()),
                    write: true,
                },
                Exception {
                    what: Excepted::Folder(Folder::Movies),
                    write: false,
                },
            ],
            kept_out: vec!["/k".into()],
            environment: vec![("N".into(), "v".into())],
            client: false,
            server: true,
        };
        let bytes = encode(&profile);
        assert_eq!(decode(&bytes), Ok(profile));
        for end in 0..bytes.len() {
            decode(&bytes[..end]).expect_err("it was cut");
        }
        let longer = [bytes.as_slice(), b"x"].concat();
        assert_eq!(decode(&longer), Err(DecodeError::Long));
        for at in 0..bytes.len() {
            for value in [0, 1, 2, 0xff] {
                let mut changed = bytes.clone();
                changed[at] = value;
                // Some changes make another profile; none may do anything else.
                drop(decode(&changed));
            }
        }
    }
}

//! Users and groups, from `/etc/passwd` and `/etc/group`.
//!
//! What other sources of users there may be (nsswitch.conf(5)) is not asked: that takes libraries
//! which the C library loads into its process, and those have no place in a server that everything
//! relies on.

use std::fs;
use std::path::Path;

use portolan_sys::spawn::Identity;
use rustix::thread::CapabilitySet;

use super::StartError;
use crate::job::Job;

const USERS: &str = "/etc/passwd";
const GROUPS: &str = "/etc/group";

/// Who a job runs as.
#[derive(Debug)]
pub(super) struct Account {
    pub(super) identity: Identity,
    /// Missing if only a group was named.
    pub(super) user: Option<User>,
}

/// A line of `/etc/passwd`, see passwd(5).
#[derive(Debug, PartialEq, Eq)]
pub(super) struct User {
    pub(super) name: String,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) home: String,
    pub(super) shell: String,
}

impl Account {
    /// `None` if the job names nobody, or if this process cannot become somebody else.
    pub(super) fn of(job: &Job) -> Result<Option<Self>, StartError> {
        let (user, group) = (job.user_name.as_deref(), job.group_name.as_deref());
        let is_root = rustix::process::geteuid().is_root();
        if !is_root || (user.is_none() && group.is_none()) {
            return Ok(None);
        }
        let groups = read(GROUPS)?;
        let gid = match group {
            Some(name) => Some(gid(&groups, name)?),
            None => None,
        };
        let Some(name) = user else {
            let gid = gid.unwrap_or_default();
            let identity = Identity {
                uid: rustix::process::geteuid().as_raw(),
                gid,
                groups: vec![gid],
                capabilities: CapabilitySet::empty(),
            };
            return Ok(Some(Self {
                identity,
                user: None,
            }));
        };
        let user = user_of(&read(USERS)?, name)?;
        let identity = Identity {
            uid: user.uid,
            gid: gid.unwrap_or(user.gid),
            groups: groups_of(&groups, &user),
            capabilities: CapabilitySet::empty(),
        };
        Ok(Some(Self {
            identity,
            user: Some(user),
        }))
    }
}

fn read(path: &str) -> Result<String, StartError> {
    let bytes = fs::read(path).map_err(|source| StartError::Accounts {
        path: Path::new(path).to_owned(),
        source,
    })?;
    // A comment with a person's name in it may be in any encoding.
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn user_of(users: &str, name: &str) -> Result<User, StartError> {
    let users = users.lines().filter_map(User::read);
    let found = { users }.find(|user| user.name == name);
    found.ok_or_else(|| StartError::NoUser {
        name: name.to_owned(),
    })
}

impl User {
    fn read(line: &str) -> Option<Self> {
        let mut fields = line.split(':');
        let name = fields.next()?.to_owned();
        let _password = fields.next()?;
        let uid = fields.next()?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        let _comment = fields.next()?;
        Some(Self {
            name,
            uid,
            gid,
            home: fields.next()?.to_owned(),
            shell: match fields.next()? {
                "" => "/bin/sh".to_owned(),
                shell => shell.to_owned(),
            },
        })
    }
}

/// Name, id and members of each group, see group(5).
fn each_group(groups: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    groups.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (name, _password) = (fields.next()?, fields.next()?);
        let gid = fields.next()?.parse().ok()?;
        Some((name, gid, fields.next()?))
    })
}

fn gid(groups: &str, name: &str) -> Result<u32, StartError> {
    let found = each_group(groups).find(|(group, ..)| *group == name);
    found
        .map(|(_, gid, _)| gid)
        .ok_or_else(|| StartError::NoGroup {
            name: name.to_owned(),
        })
}

/// The user's own group, and those that list it.
fn groups_of(groups: &str, user: &User) -> Vec<u32> {
    let is_member = |members: &str| members.split(',').any(|member| member == user.name);
    let listed =
        each_group(groups).filter(|(_, gid, members)| *gid != user.gid && is_member(members));
    [user.gid]
        .into_iter()
        .chain(listed.map(|(_, gid, _)| gid))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const USERS: &str = "root:x:0:0:root:/root-home:/bin/bash\n\
        # no user\n\
        broken:x:one:1::/:\n\
        alice:x:1000:1001:Alice,,,:/home/alice:\n";
    const GROUPS: &str = "root:x:0:\nalice:x:1001:alice\naudio:x:29:bob,alice\nvideo:x:44:malice\n";

    #[test]
    fn a_user_is_found_with_all_its_groups() {
        let alice = user_of(USERS, "alice").expect("a user");
        assert_eq!((alice.uid, alice.gid), (1000, 1001));
        assert_eq!(
            (alice.home.as_str(), alice.shell.as_str()),
            ("/home/alice", "/bin/sh")
        );
        assert_eq!(groups_of(GROUPS, &alice), [1001, 29]);
    }

    #[test]
    fn names_that_nobody_has_are_told() {
        let error = user_of(USERS, "broken").expect_err("its line is not valid");
        assert_eq!(
            error.to_string(),
            "there is no user broken: UserName has to be in /etc/passwd"
        );
        assert_eq!(gid(GROUPS, "video").expect("a group"), 44);
        assert_eq!(
            gid(GROUPS, "x").expect_err("none").to_string(),
            "there is no group x: GroupName has to be in /etc/group"
        );
    }
}

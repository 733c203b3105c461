//! The unprivileged user that PostgreSQL runs as when we are root.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A user from `/etc/passwd`. Supplementary groups are dropped: only `uid` and `gid` count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Login name.
    pub name: String,
    /// Home directory; it need not exist.
    pub home: PathBuf,
}

/// Why no owner could be chosen, or why the owner cannot work in a directory.
#[derive(Debug, thiserror::Error)]
pub enum OwnerError {
    /// Nobody suitable in `/etc/passwd`.
    #[error(
        "PostgreSQL refuses to run as root and there is no user {tried}; \
         create one with: useradd --system --no-create-home --shell /usr/sbin/nologin {create}"
    )]
    NoUser {
        /// The names tried.
        tried: String,
        /// The name to create.
        create: String,
    },
    /// The wanted user is root itself.
    #[error("PostgreSQL refuses to run as '{0}' because its user id is 0; name an unprivileged user")]
    Privileged(String),
    /// We are not root and so cannot become another user.
    #[error(
        "PostgreSQL should run as '{wanted}', but this process is not root and cannot become another user; \
         run as root or as '{wanted}', or leave the user out"
    )]
    NotRoot {
        /// The wanted name.
        wanted: String,
    },
    /// `/etc/passwd` could not be read.
    #[error("could not read /etc/passwd to find the user for PostgreSQL: {0}")]
    Passwd(#[source] std::io::Error),
    /// A directory that the owner cannot pass.
    #[error(
        "user '{owner}' cannot enter {blocked}, which leads to {wanted}; \
         choose a directory elsewhere or allow it with: chmod o+x {blocked}",
        blocked = blocked.display(), wanted = wanted.display()
    )]
    Unreachable {
        /// The user.
        owner: String,
        /// The first directory on the way that has no x for the user.
        blocked: PathBuf,
        /// The directory to be reached.
        wanted: PathBuf,
    },
}

impl Owner {
    /// The user to run PostgreSQL as: nobody else when we are not root; as root `wanted`, else `postgres`, else
    /// `matriarch`.
    pub fn choose(wanted: Option<&str>) -> Result<Option<Owner>, OwnerError> {
        let passwd = fs::read_to_string("/etc/passwd").map_err(OwnerError::Passwd)?;
        choose_from(&passwd, rustix::process::geteuid().as_raw(), wanted)
    }

    fn may_enter(&self, dir: &fs::Metadata) -> bool {
        let shift = if dir.uid() == self.uid {
            6
        } else if dir.gid() == self.gid {
            3
        } else {
            0
        };
        (dir.mode() >> shift) & 1 == 1
    }
}

fn choose_from(passwd: &str, euid: u32, wanted: Option<&str>) -> Result<Option<Owner>, OwnerError> {
    let find = |name: &str| entries(passwd).find(|owner| owner.name == name);
    if euid != 0 {
        return match wanted {
            Some(name) if find(name).is_none_or(|owner| owner.uid != euid) => {
                Err(OwnerError::NotRoot { wanted: name.to_owned() })
            }
            _ => Ok(None),
        };
    }
    let names = wanted.map_or(vec!["postgres", "matriarch"], |name| vec![name]);
    match names.iter().find_map(|name| find(name)) {
        Some(owner) if owner.uid == 0 => Err(OwnerError::Privileged(owner.name)),
        Some(owner) => Ok(Some(owner)),
        None => Err(OwnerError::NoUser {
            tried: names.iter().map(|name| format!("'{name}'")).collect::<Vec<_>>().join(" or "),
            create: wanted.unwrap_or("matriarch").to_owned(),
        }),
    }
}

fn entries(passwd: &str) -> impl Iterator<Item = Owner> {
    passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?.to_owned();
        let (uid, gid) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
        Some(Owner { uid, gid, name, home: PathBuf::from(fields.nth(1)?) })
    })
}

/// Checks that `owner` can pass every existing directory above `dir`, and names the first it cannot.
/// Access lists beyond the mode bits are not looked at.
pub fn check_reachable(dir: &Path, owner: &Owner) -> Result<(), OwnerError> {
    let mut above: Vec<&Path> = dir.ancestors().skip(1).filter(|path| !path.as_os_str().is_empty()).collect();
    above.reverse();
    for path in above {
        let Ok(found) = fs::metadata(path) else { continue };
        if !owner.may_enter(&found) {
            return Err(OwnerError::Unreachable {
                owner: owner.name.clone(),
                blocked: path.to_owned(),
                wanted: dir.to_owned(),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\n\
        # comment\n\
        matriarch:x:900:901::/nonexistent:/usr/sbin/nologin\n\
        postgres:x:101:102:PostgreSQL administrator,,,:/var/lib/postgresql:/bin/bash\n";

    #[test]
    fn root_becomes_somebody_else() {
        let chosen = choose_from(PASSWD, 0, None).unwrap().unwrap();
        assert_eq!((chosen.uid, chosen.gid, chosen.name.as_str()), (101, 102, "postgres"));
        assert_eq!(chosen.home, Path::new("/var/lib/postgresql"));
        assert_eq!(choose_from(PASSWD, 0, Some("matriarch")).unwrap().unwrap().uid, 900);
        assert_eq!(choose_from(PASSWD, 1000, None).unwrap(), None);
    }

    #[test]
    fn errors_say_what_to_do() {
        let none = choose_from("root:x:0:0:root:/root:/bin/bash", 0, None).unwrap_err().to_string();
        assert!(none.contains("'postgres' or 'matriarch'") && none.contains("useradd"), "{none}");
        assert!(matches!(choose_from(PASSWD, 0, Some("root")), Err(OwnerError::Privileged(_))));
        assert!(matches!(choose_from(PASSWD, 1000, Some("postgres")), Err(OwnerError::NotRoot { .. })));
    }

    #[test]
    fn the_first_closed_directory_is_named() {
        let top = tempfile::tempdir().unwrap();
        let closed = top.path().join("closed");
        fs::create_dir_all(closed.join("in")).unwrap();
        for (path, mode) in [(top.path(), 0o755), (&closed, 0o700)] {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        }
        let stranger = Owner { uid: 54321, gid: 54321, name: "stranger".into(), home: "/".into() };
        let error = check_reachable(&closed.join("in/data"), &stranger).unwrap_err().to_string();
        assert!(error.contains(&format!("enter {}", closed.display())), "{error}");
        check_reachable(&closed, &stranger).unwrap();
    }
}

//! The file and its folder as the system shows them: whose they are, who else may write them, and
//! whether a path still leads to the same file.
//!
//! A file that exists is only looked at, never opened here: closing any handle of a file takes away
//! all locks that this process holds on it (POSIX), those of SQLite among them.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, Metadata, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::reason;
use crate::store::schema::Kind;

/// How long the lock of a folder is waited for. It is held for milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// Time between two attempts to lock.
const PAUSE: Duration = Duration::from_millis(2);

/// Tells one file from another that came into its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) device: u64,
    pub(super) inode: u64,
}

/// What stands at the place of the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Nothing,
    /// A file without a byte, as `mktemp` leaves it: SQLite's own idea of an empty database.
    Empty,
    File(Identity),
}

/// The path from the root, with links followed: what belongs to the file stands beside the file.
pub(super) fn resolve(path: &Path) -> PathBuf {
    fs::canonicalize(path)
        .or_else(|_| std::path::absolute(path))
        .unwrap_or_else(|_| path.to_owned())
}

/// The folder of the file.
pub(super) fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if folder.as_os_str().is_empty() => Path::new("."),
        Some(folder) => folder,
        None => path,
    }
}

/// The path with something added to its last name.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    PathBuf::from(name)
}

/// Makes sure that there is a folder which nobody else may write; a folder that the user named is
/// not made.
pub(super) fn prepare_folder(kind: &Kind, path: &Path, is_named: bool) -> Result<(), String> {
    let folder = folder(path);
    let (noun, shown) = (kind.noun, folder.display());
    if !is_named {
        make_private_folder(folder).map_err(|error| {
            format!(
                "the folder `{shown}` of the {noun} cannot be made: {}",
                reason(&error)
            )
        })?;
    }
    let metadata = fs::metadata(folder).map_err(|error| {
        format!(
            "the folder `{shown}` of the {noun} cannot be used: {}",
            reason(&error)
        )
    })?;
    if !metadata.is_dir() {
        return Err(format!(
            "`{shown}`, where the {noun} should be, is no folder"
        ));
    }
    // What is named is meant, also in a folder such as `/tmp`, where nobody can take another user's file away.
    if is_named && is_sticky(&metadata) {
        return Ok(());
    }
    match objection(&metadata, true) {
        Some(objection) => Err(format!("the folder `{shown}` of the {noun} {objection}")),
        None => Ok(()),
    }
}

/// Looks at what stands at the place of the cache, and whether it may be trusted.
pub(super) fn find(kind: &Kind, path: &Path) -> Result<Found, String> {
    let (noun, shown) = (kind.noun, path.display());
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
        Err(error) => {
            return Err(format!(
                "the {noun} `{shown}` cannot be opened: {}",
                reason(&error)
            ));
        }
    };
    if metadata.is_dir() {
        return Err(format!(
            "`{shown}`, where the {noun} should be, is a folder"
        ));
    }
    if !metadata.is_file() {
        return Err(format!(
            "`{shown}`, where the {noun} should be, is no regular file"
        ));
    }
    if let Some(objection) = objection(&metadata, false) {
        return Err(format!("the {noun} `{shown}` {objection}"));
    }
    // What the log of a file says is taken for a part of the file.
    for suffix in ["-wal", "-shm", "-journal"] {
        let companion = beside(path, suffix);
        if let Ok(metadata) = fs::symlink_metadata(&companion)
            && let Some(objection) = objection(&metadata, false)
        {
            let shown = companion.display();
            return Err(format!(
                "the file `{shown}`, a part of the {noun}, {objection}"
            ));
        }
    }
    Ok(if metadata.len() == 0 {
        Found::Empty
    } else {
        Found::File(identity(&metadata))
    })
}

/// Makes an empty file that only this user may read, where nothing stands yet. On Windows it gets what
/// its folder passes on: that of the profile is its user's, the system's and the administrators'.
pub(super) fn make_private(path: &Path) -> io::Result<()> {
    let mut options = File::options();
    options.write(true).create_new(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        options.mode(0o600);
    }
    options.open(path).map(drop)
}

/// Makes a folder, and those around it, that only this user may use; on Windows as with a file.
pub(super) fn make_private_folder(folder: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::DirBuilderExt as _;
        builder.mode(0o700);
    }
    builder.create(folder)
}

/// Held while a file comes into its place or is moved out of it.
#[derive(Debug)]
pub(super) struct FolderLock {
    _folder: File,
}

/// Locks the folder of the cache; none where the system has no such locks, or somebody keeps it.
/// It is the folder that is locked so that no file of locks is left lying about.
pub(super) fn lock(path: &Path) -> Option<FolderLock> {
    let folder = File::open(folder(path)).ok()?;
    let started = Instant::now();
    loop {
        match folder.try_lock() {
            Ok(()) => return Some(FolderLock { _folder: folder }),
            Err(TryLockError::WouldBlock) if started.elapsed() < PATIENCE => thread::sleep(PAUSE),
            Err(_) => return None,
        }
    }
}

/// Whether both are of one file.
pub(super) fn is_same(one: &Metadata, other: &Metadata) -> bool {
    identity(one) == identity(other)
}

#[cfg(unix)]
fn identity(metadata: &Metadata) -> Identity {
    use std::os::unix::fs::MetadataExt as _;
    Identity {
        device: metadata.dev(),
        inode: metadata.ino(),
    }
}

/// All files are one where they cannot be told apart; Windows lets nobody move one that SQLite has open.
#[cfg(not(unix))]
fn identity(_: &Metadata) -> Identity {
    Identity {
        device: 0,
        inode: 0,
    }
}

/// Whether it is a folder of this user's or root's in which files can be taken away by their owners alone (chmod(2),
/// `S_ISVTX`).
#[cfg(unix)]
fn is_sticky(folder: &Metadata) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let me = rustix::process::geteuid().as_raw();
    folder.mode() & 0o1000 != 0 && [0, me].contains(&folder.uid())
}

#[cfg(not(unix))]
fn is_sticky(_: &Metadata) -> bool {
    false
}

/// What speaks against using the file or folder: whoever else may write it could put words into
/// the model's mouth.
#[cfg(unix)]
fn objection(metadata: &Metadata, is_folder: bool) -> Option<&'static str> {
    use std::os::unix::fs::MetadataExt as _;
    let me = rustix::process::geteuid().as_raw();
    let owner = metadata.uid();
    // Root can write everywhere anyhow.
    if owner != me && !(is_folder && owner == 0) {
        return Some("belongs to another user");
    }
    let mode = metadata.mode();
    // Where every user has a group of the same number, and nobody else in it, files are writable
    // by the group as a matter of course.
    let is_own_group = metadata.gid() == owner;
    if mode & 0o002 != 0 || (mode & 0o020 != 0 && !is_own_group) {
        return Some("can be written by other users");
    }
    // Root could write it all the same; whoever took the bit away did not want that.
    if mode & 0o200 == 0 {
        return Some("is read-only");
    }
    None
}

/// Who may write is in access control lists elsewhere, which are not read.
#[cfg(not(unix))]
fn objection(metadata: &Metadata, is_folder: bool) -> Option<&'static str> {
    (!is_folder && metadata.permissions().readonly()).then_some("is read-only")
}

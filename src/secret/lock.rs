//! One process at a time: a lock that ends with whoever holds it, however that ends.

use std::fs::{DirBuilder, File};
use std::io;
use std::path::Path;
use std::thread;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

/// Held until it is dropped.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// Waits until no other process, and nobody else in this one, holds the lock. The file stays where it is: were it
/// taken away, two could hold what looks like the same lock.
///
/// # Errors
/// What the system says; [`io::ErrorKind::TimedOut`] when it took longer than `patience`.
pub async fn lock(path: &Path, patience: Duration) -> io::Result<Lock> {
    let file = open(path)?;
    // Mostly nobody holds it.
    if file.try_lock().is_ok() {
        return Ok(Lock { _file: file });
    }
    let (sender, receiver) = oneshot::channel();
    thread::Builder::new()
        .name("lock".to_owned())
        .spawn(move || {
            let locked = file.lock().map(|()| Lock { _file: file });
            // Where nobody waits any more it is let go at once.
            drop(sender.send(locked));
        })?;
    match timeout(patience, receiver).await {
        Ok(Ok(locked)) => locked,
        Ok(Err(_)) => Err(io::Error::other("the thread that waits for it broke off")),
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

fn open(path: &Path) -> io::Result<File> {
    let mut folder = DirBuilder::new();
    let mut file = File::options();
    file.create(true).truncate(false).write(true);
    folder.recursive(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
        folder.mode(0o700);
        file.mode(0o600);
    }
    folder.create(path.parent().unwrap_or(path))?;
    file.open(path)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    /// A folder of the test's own, gone with it.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let name = format!("gptpipe-lock-{}-{name}", std::process::id());
            Self(std::env::temp_dir().join(name))
        }

        fn path(&self) -> PathBuf {
            self.0.join("own").join("test.lock")
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[tokio::test]
    async fn is_held_by_one_and_goes_to_the_next() {
        let folder = Folder::new("next");
        let path = folder.path();
        let first = lock(&path, Duration::from_secs(9)).await.unwrap();
        let second = tokio::spawn({
            let path = path.clone();
            async move { lock(&path, Duration::from_secs(9)).await.map(drop) }
        });
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(!second.is_finished(), "it must wait");
        drop(first);
        second.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn is_waited_for_no_longer_than_one_is_willing_to() {
        let folder = Folder::new("long");
        let path = folder.path();
        let first = lock(&path, Duration::from_secs(9)).await.unwrap();
        let error = lock(&path, Duration::from_millis(5)).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(first);
        // What gave up must not have kept it.
        drop(lock(&path, Duration::from_secs(9)).await.unwrap());
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn its_file_is_this_users_alone() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = Folder::new("mode");
        let path = folder.path();
        let _lock = lock(&path, Duration::from_secs(9)).await.unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
    }
}

//! Files for the time of a process: nobody else can read them, and nothing is left of them however
//! it ends.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use crate::store::file;

/// Makes an empty file below a folder, which is made if there is none. On Unix it has no name any
/// more, so that the system takes it away with its last handle.
///
/// # Errors
/// The system's.
pub fn scratch(folder: &Path) -> io::Result<File> {
    file::make_private_folder(folder)?;
    let path = folder.join(format!("scratch-{:032x}", fastrand::u128(..)));
    file::make_private(&path)?;
    let opened = File::options().read(true).write(true).open(&path);
    // What has a handle goes later elsewhere.
    let _ = fs::remove_file(&path);
    opened
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Seek as _, Write as _};

    #[test]
    fn nothing_is_left_of_it() {
        let folder = std::env::temp_dir().join(format!("gptpipe-scratch-{}", std::process::id()));
        let mut file = scratch(&folder).unwrap();
        file.write_all(b"text").unwrap();
        file.rewind().unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "text");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
            assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
        }
        drop(file);
        fs::remove_dir_all(folder).unwrap();
    }
}

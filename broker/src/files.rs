//! The disk as folders and files of the operating system, and the lock that keeps a data folder to one broker.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::core::disk::Disk;

/// Open files kept for reuse; more are opened again when needed.
const OPEN_FILES: usize = 600;
const LOCK_FILE: &str = "lock";

/// A folder used as [`Disk`]. Holds the folder's lock until dropped.
pub(crate) struct FileDisk {
    root: PathBuf,
    open: Mutex<HashMap<String, Arc<File>>>,
    lock: Option<File>,
}

impl Drop for FileDisk {
    /// Gives the folder up. Closing the file alone would leave the lock to a process that is just being started, which has a
    /// copy of every open file until it runs its own program.
    fn drop(&mut self) {
        if let Some(lock) = &self.lock
            && let Err(error) = lock.unlock()
        {
            tracing::error!(folder = %self.root.display(), %error, "giving up the lock of the broker's folder");
        }
    }
}

impl FileDisk {
    /// Takes `root`, creating it if needed. `None` if another broker has it.
    pub(crate) fn lock(root: &Path) -> io::Result<Option<Self>> {
        fs::create_dir_all(root)?;
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(root.join(LOCK_FILE))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        Ok(Some(Self { root: root.to_owned(), open: Mutex::new(HashMap::new()), lock: Some(lock) }))
    }

    /// Uses `root` without taking it, for those who only read.
    pub(crate) fn for_reading(root: &Path) -> io::Result<Self> {
        fs::read_dir(root)?;
        Ok(Self { root: root.to_owned(), open: Mutex::new(HashMap::new()), lock: None })
    }

    /// Whether a broker has `root`.
    pub(crate) fn is_taken(root: &Path) -> bool {
        let lock = File::open(root.join(LOCK_FILE));
        lock.is_ok_and(|lock| matches!(lock.try_lock_shared(), Err(TryLockError::WouldBlock)))
    }

    fn files(&self) -> MutexGuard<'_, HashMap<String, Arc<File>>> {
        // Only whole entries are put in and taken out.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn handle(&self, file: &str, create: bool) -> io::Result<Arc<File>> {
        let mut files = self.files();
        if let Some(handle) = files.get(file) {
            return Ok(handle.clone());
        }
        let path = self.root.join(file);
        let mut options = OpenOptions::new();
        let writes = self.lock.is_some();
        options.read(true).write(writes).create(create && writes);
        let opened = match options.open(&path) {
            Err(error) if create && error.kind() == io::ErrorKind::NotFound => {
                if let Some(parent) = path.parent() {
                    fs::create_dir_all(parent)?;
                }
                options.open(&path)?
            }
            other => other?,
        };
        if files.len() >= OPEN_FILES {
            // Any half will do: those in use come back with the next access.
            let mut keep = false;
            files.retain(|_, _| {
                keep = !keep;
                keep
            });
        }
        let handle = Arc::new(opened);
        files.insert(file.to_owned(), handle.clone());
        Ok(handle)
    }

    fn forget(&self, file: &str) {
        self.files().remove(file);
    }
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

impl Disk for FileDisk {
    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(self.root.join(dir)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other?,
        };
        let mut names = Vec::new();
        for entry in entries {
            names.extend(entry?.file_name().into_string().ok());
        }
        names.sort();
        Ok(names)
    }

    fn length(&self, file: &str) -> io::Result<u64> {
        // Asked of every file at start, so it is not opened for this.
        Ok(fs::metadata(self.root.join(file))?.len())
    }

    fn write_at(&self, file: &str, position: u64, bytes: &[u8]) -> io::Result<()> {
        self.handle(file, true)?.write_all_at(bytes, position)
    }

    fn read_at(&self, file: &str, position: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let handle = self.handle(file, false)?;
        let mut count = 0;
        while count < buffer.len() {
            match handle.read_at(&mut buffer[count..], position + count as u64) {
                Ok(0) => break,
                Ok(more) => count += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(count)
    }

    fn truncate(&self, file: &str, length: u64) -> io::Result<()> {
        self.handle(file, false)?.set_len(length)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.forget(from);
        self.forget(to);
        fs::rename(self.root.join(from), self.root.join(to))
    }

    fn delete(&self, file: &str) -> io::Result<()> {
        self.forget(file);
        absent_is_fine(fs::remove_file(self.root.join(file)))
    }

    fn delete_dir(&self, dir: &str) -> io::Result<()> {
        let prefix = format!("{dir}/");
        self.files().retain(|file, _| !file.starts_with(&prefix));
        absent_is_fine(fs::remove_dir_all(self.root.join(dir)))
    }

    fn sync(&self, file: &str) -> io::Result<()> {
        self.handle(file, false)?.sync_data()
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        absent_is_fine(File::open(self.root.join(dir)).and_then(|dir| dir.sync_all()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_copy_of_the_lock_s_file_does_not_keep_the_folder() {
        let dir = tempfile::tempdir().unwrap();
        let disk = FileDisk::lock(dir.path()).unwrap().unwrap();
        assert!(FileDisk::lock(dir.path()).unwrap().is_none());
        let copy = disk.lock.as_ref().unwrap().try_clone().unwrap();
        drop(disk);
        assert!(FileDisk::lock(dir.path()).unwrap().is_some());
        drop(copy);
    }
}

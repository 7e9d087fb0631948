//! The door to storage: what the core needs of a disk, and a disk in memory for simulation.
//!
//! Owns no format and takes no decision. Names are relative paths with `/` between the parts.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Storage as the core sees it: named files of bytes, written at a position.
///
/// A completed write must survive the death of the process, and after [`Disk::sync`] also that of the machine.
pub trait Disk: Send + Sync {
    /// Names (not paths) of the files and folders directly inside `dir`, sorted; none if `dir` does not exist.
    fn list(&self, dir: &str) -> io::Result<Vec<String>>;
    /// Length of `file` in bytes.
    fn length(&self, file: &str) -> io::Result<u64>;
    /// Writes all of `bytes` at `position`, creating `file` and its folders if needed.
    fn write_at(&self, file: &str, position: u64, bytes: &[u8]) -> io::Result<()>;
    /// Reads up to `buffer.len()` bytes from `position`; fewer only at the end of the file.
    fn read_at(&self, file: &str, position: u64, buffer: &mut [u8]) -> io::Result<usize>;
    /// Cuts `file` to `length` bytes.
    fn truncate(&self, file: &str, length: u64) -> io::Result<()>;
    /// Gives `from` the name `to` in one step, replacing what had that name.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Deletes `file`; a file that does not exist is not an error.
    fn delete(&self, file: &str) -> io::Result<()>;
    /// Deletes `dir` with all that is in it; a folder that does not exist is not an error.
    fn delete_dir(&self, dir: &str) -> io::Result<()>;
    /// Makes what was written to `file` survive the death of the machine. A disk that has nothing to lose has nothing
    /// to do.
    fn sync(&self, _file: &str) -> io::Result<()> {
        Ok(())
    }
    /// Makes the names inside `dir` survive the death of the machine, likewise.
    fn sync_dir(&self, _dir: &str) -> io::Result<()> {
        Ok(())
    }
}

/// A disk in memory. Clones of the owning `Arc` see the same files, so a "restart" is a second core on it.
#[derive(Debug, Default)]
pub struct MemoryDisk {
    files: Mutex<BTreeMap<String, Vec<u8>>>,
}

impl MemoryDisk {
    /// An empty disk.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn files(&self) -> MutexGuard<'_, BTreeMap<String, Vec<u8>>> {
        // Every operation leaves the map whole, so a poisoned lock guards nothing broken.
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn missing(file: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("no file {file}"))
}

impl Disk for MemoryDisk {
    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let prefix = if dir.is_empty() { String::new() } else { format!("{dir}/") };
        let mut names: Vec<String> = self
            .files()
            .keys()
            .filter_map(|path| path.strip_prefix(&prefix))
            .filter_map(|rest| rest.split('/').next())
            .map(str::to_owned)
            .collect();
        names.dedup();
        Ok(names)
    }

    fn length(&self, file: &str) -> io::Result<u64> {
        let files = self.files();
        let bytes = files.get(file).ok_or_else(|| missing(file))?;
        Ok(bytes.len() as u64)
    }

    fn write_at(&self, file: &str, position: u64, bytes: &[u8]) -> io::Result<()> {
        let mut files = self.files();
        let content = files.entry(file.to_owned()).or_default();
        let start = position as usize;
        if content.len() < start + bytes.len() {
            content.resize(start + bytes.len(), 0);
        }
        content[start..start + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn read_at(&self, file: &str, position: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let files = self.files();
        let content = files.get(file).ok_or_else(|| missing(file))?;
        let start = (position as usize).min(content.len());
        let count = buffer.len().min(content.len() - start);
        buffer[..count].copy_from_slice(&content[start..start + count]);
        Ok(count)
    }

    fn truncate(&self, file: &str, length: u64) -> io::Result<()> {
        let mut files = self.files();
        let content = files.get_mut(file).ok_or_else(|| missing(file))?;
        content.truncate(length as usize);
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut files = self.files();
        let content = files.remove(from).ok_or_else(|| missing(from))?;
        files.insert(to.to_owned(), content);
        Ok(())
    }

    fn delete(&self, file: &str) -> io::Result<()> {
        self.files().remove(file);
        Ok(())
    }

    fn delete_dir(&self, dir: &str) -> io::Result<()> {
        let prefix = format!("{dir}/");
        self.files().retain(|path, _| !path.starts_with(&prefix));
        Ok(())
    }
}

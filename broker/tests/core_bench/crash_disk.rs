//! A disk in memory that runs full, dies in the middle of a write, and forgets at a power cut what was not synced: a
//! prefix of the writes since the last sync survives, the last of them torn. Names (creation, renaming, deletion) are
//! kept in order, as journaling file systems do.

use std::collections::BTreeMap;
use std::io;
use std::sync::Mutex;

use millrace_broker::core::disk::Disk;

/// What ends a core's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Death {
    /// `kill -9`: what was written is kept.
    Process,
    /// What was not synced may be lost.
    Power,
}

#[derive(Default, Clone)]
struct File {
    bytes: Vec<u8>,
    synced: Vec<u8>,
    /// Writes since the last sync.
    unsynced: Vec<(usize, Vec<u8>)>,
}

fn place(content: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    if content.len() < at + bytes.len() {
        content.resize(at + bytes.len(), 0);
    }
    content[at..at + bytes.len()].copy_from_slice(bytes);
}

#[derive(Default)]
struct State {
    files: BTreeMap<String, File>,
    numbers: u64,
    /// Changes until it dies.
    life: Option<u64>,
    dead: bool,
    /// Most bytes it holds.
    space: Option<usize>,
    /// Says it has synced and has not: a planted defect.
    lies: bool,
    /// Deletes nothing of this name: a planted defect.
    keeps: Option<&'static str>,
}

impl State {
    fn number(&mut self, below: usize) -> usize {
        self.numbers = self.numbers.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.numbers >> 33) as usize % below.max(1)
    }

    fn alive(&self) -> io::Result<()> {
        if self.dead { Err(io::Error::other("the disk is dead")) } else { Ok(()) }
    }

    /// Counts a change; `true` if the disk dies in the middle of it.
    fn dies(&mut self) -> io::Result<bool> {
        self.alive()?;
        match &mut self.life {
            Some(0) => {
                self.dead = true;
                Ok(true)
            }
            Some(left) => {
                *left -= 1;
                Ok(false)
            }
            None => Ok(false),
        }
    }
}

/// See the module.
#[derive(Default)]
pub struct CrashDisk(Mutex<State>);

fn died() -> io::Error {
    io::Error::other("the disk died")
}

impl CrashDisk {
    pub fn new(seed: u64) -> Self {
        Self(Mutex::new(State { numbers: seed, ..State::default() }))
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().expect("no panic holds it")
    }

    pub fn lie(&self) {
        self.state().lies = true;
    }

    pub fn keep(&self, name: &'static str) {
        self.state().keeps = Some(name);
    }

    /// Lets it die after so many changes.
    pub fn die_after(&self, changes: u64) {
        self.state().life = Some(changes);
    }

    /// Lets it live on.
    pub fn spare(&self) {
        self.state().life = None;
    }

    pub fn is_dead(&self) -> bool {
        self.state().dead
    }

    /// Limits it to what it holds now and so many bytes more; `None` for no limit.
    pub fn limit(&self, more: Option<usize>) {
        let mut state = self.state();
        let used: usize = state.files.values().map(|file| file.bytes.len()).sum();
        state.space = more.map(|more| used + more);
    }

    /// What is found after a death.
    pub fn revive(&self, death: Death) {
        let mut state = self.state();
        state.dead = false;
        state.life = None;
        let mut files = std::mem::take(&mut state.files);
        for file in files.values_mut() {
            if death == Death::Power {
                let kept = state.number(file.unsynced.len() + 1);
                let mut bytes = std::mem::take(&mut file.synced);
                for (count, (at, written)) in file.unsynced.iter().take(kept).enumerate() {
                    let whole = if count + 1 == kept { state.number(written.len() + 1) } else { written.len() };
                    place(&mut bytes, *at, &written[..whole]);
                }
                file.bytes = bytes;
            }
            // What is there now is what the next machine sees; it is on disk.
            if death == Death::Power {
                file.synced = file.bytes.clone();
                file.unsynced.clear();
            }
        }
        state.files = files;
    }
}

fn missing(file: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("no file {file}"))
}

impl Disk for CrashDisk {
    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let state = self.state();
        state.alive()?;
        let prefix = if dir.is_empty() { String::new() } else { format!("{dir}/") };
        let names = state.files.keys().filter_map(|path| path.strip_prefix(&prefix));
        let mut names: Vec<String> = names.filter_map(|rest| rest.split('/').next()).map(str::to_owned).collect();
        names.dedup();
        Ok(names)
    }

    fn length(&self, file: &str) -> io::Result<u64> {
        let state = self.state();
        state.alive()?;
        state.files.get(file).map(|file| file.bytes.len() as u64).ok_or_else(|| missing(file))
    }

    fn write_at(&self, file: &str, position: u64, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.state();
        let dies = state.dies()?;
        let at = position as usize;
        let used: usize = state.files.values().map(|file| file.bytes.len()).sum();
        let room = state.space.map_or(usize::MAX, |space| {
            let length = state.files.get(file).map_or(0, |file| file.bytes.len());
            space.saturating_sub(used) + length.saturating_sub(at)
        });
        let whole = if dies { state.number(bytes.len() + 1) } else { bytes.len().min(room) };
        let written = &bytes[..whole];
        let entry = state.files.entry(file.to_owned()).or_default();
        place(&mut entry.bytes, at, written);
        entry.unsynced.push((at, written.to_vec()));
        if dies {
            return Err(died());
        }
        if whole < bytes.len() {
            return Err(io::Error::new(io::ErrorKind::StorageFull, "no space left"));
        }
        Ok(())
    }

    fn read_at(&self, file: &str, position: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let state = self.state();
        state.alive()?;
        let content = &state.files.get(file).ok_or_else(|| missing(file))?.bytes;
        let start = (position as usize).min(content.len());
        let count = buffer.len().min(content.len() - start);
        buffer[..count].copy_from_slice(&content[start..start + count]);
        Ok(count)
    }

    fn truncate(&self, file: &str, length: u64) -> io::Result<()> {
        let mut state = self.state();
        if state.dies()? {
            return Err(died());
        }
        let content = state.files.get_mut(file).ok_or_else(|| missing(file))?;
        let length = length as usize;
        content.bytes.truncate(length);
        content.synced.truncate(length);
        content.unsynced.retain(|(at, _)| *at < length);
        for (at, written) in &mut content.unsynced {
            written.truncate(length - *at);
        }
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        if state.dies()? {
            return Err(died());
        }
        let content = state.files.remove(from).ok_or_else(|| missing(from))?;
        state.files.insert(to.to_owned(), content);
        Ok(())
    }

    fn delete(&self, file: &str) -> io::Result<()> {
        let mut state = self.state();
        if state.dies()? {
            return Err(died());
        }
        if state.keeps.is_none_or(|name| !file.ends_with(name)) {
            state.files.remove(file);
        }
        Ok(())
    }

    fn delete_dir(&self, dir: &str) -> io::Result<()> {
        let mut state = self.state();
        if state.dies()? {
            return Err(died());
        }
        let prefix = format!("{dir}/");
        state.files.retain(|path, _| !path.starts_with(&prefix));
        Ok(())
    }

    fn sync(&self, file: &str) -> io::Result<()> {
        let mut state = self.state();
        if state.dies()? {
            return Err(died());
        }
        if state.lies {
            return Ok(());
        }
        let content = state.files.get_mut(file).ok_or_else(|| missing(file))?;
        content.synced = content.bytes.clone();
        content.unsynced.clear();
        Ok(())
    }

    fn sync_dir(&self, _dir: &str) -> io::Result<()> {
        if self.state().dies()? { Err(died()) } else { Ok(()) }
    }
}

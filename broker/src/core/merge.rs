//! A merge of segments that survives a crash in the middle: a note on disk says which files a merged segment replaces,
//! from before it gets its name until they are deleted.
//!
//! Only the note tells a file that was left behind from one that holds records. Offsets do not: those of a batch are
//! covered by no checksum, and a damaged one would make the next segment look as if it had been merged.

use serde::{Deserialize, Serialize};

use super::StorageError;
use super::disk::Disk;
use super::segment::segment_file;
use super::snapshot::{read_sealed, seal};

const NOTE_FILE: &str = "merge";

/// A merged segment, and the segments it replaces besides the one whose name it takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Merge {
    /// Base of the merged segment.
    pub(super) into: i64,
    /// Bases of those that go.
    pub(super) gone: Vec<i64>,
}

/// Where the merged segment lies until it gets its name.
pub(super) fn draft_file(segment_file: &str) -> String {
    format!("{segment_file}.draft")
}

impl Merge {
    /// Writes the note, before the draft gets its name.
    pub(super) fn note(&self, disk: &dyn Disk, dir: &str) -> Result<(), StorageError> {
        let file = format!("{dir}/{NOTE_FILE}");
        let io = |error| StorageError::io(&file, error);
        disk.delete(&file).map_err(io)?;
        disk.write_at(&file, 0, &seal(self)).map_err(io)?;
        disk.sync(&file).map_err(io)?;
        disk.sync_dir(dir).map_err(io)
    }

    /// Ends the merge that `dir` has a note of: as long as the draft is there nothing has happened, and without it the
    /// files it replaces go. Returns the bases of those that went.
    pub(super) fn settle(disk: &dyn Disk, dir: &str) -> Result<Vec<i64>, StorageError> {
        let file = format!("{dir}/{NOTE_FILE}");
        let note: Option<Self> = read_sealed(disk, &file)?;
        let draft_is_there = |merge: &Self| {
            let draft = draft_file(&segment_file(dir, merge.into));
            match disk.length(&draft) {
                Ok(_) => Ok(true),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
                Err(error) => Err(StorageError::io(&draft, error)),
            }
        };
        let mut gone = Vec::new();
        // A note that is not whole was never acted on.
        if let Some(merge) = note
            && !draft_is_there(&merge)?
        {
            merge.delete_replaced(disk, dir)?;
            gone = merge.gone;
        }
        // Before any draft is deleted, for then the note would say that the draft has got its name.
        disk.delete(&file).map_err(|error| StorageError::io(&file, error))?;
        Ok(gone)
    }

    fn delete_replaced(&self, disk: &dyn Disk, dir: &str) -> Result<(), StorageError> {
        let io = |error| StorageError::io(dir, error);
        // What is deleted next must not be missed because the new name was lost.
        disk.sync_dir(dir).map_err(io)?;
        for base in &self.gone {
            let file = segment_file(dir, *base);
            for file in [&format!("{}.index", file.trim_end_matches(".log")), &file] {
                disk.delete(file).map_err(|error| StorageError::io(file, error))?;
            }
        }
        disk.sync_dir(dir).map_err(io)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::disk::MemoryDisk;

    fn folder(names: &[&str]) -> MemoryDisk {
        let disk = MemoryDisk::new();
        for name in names {
            disk.write_at(&format!("d/{name}"), 0, b"bytes").expect("written");
        }
        disk
    }

    const MERGED: &str = "00000000000000000000.log";
    const DRAFT: &str = "00000000000000000000.log.draft";
    const REPLACED: &str = "00000000000000000007.log";

    #[test]
    fn replaced_files_go_only_after_the_draft_has_its_name() {
        let merge = Merge { into: 0, gone: vec![7] };
        let disk = folder(&[MERGED, DRAFT, REPLACED]);
        merge.note(&disk, "d").expect("noted");
        assert_eq!(Merge::settle(&disk, "d").expect("settled"), [0_i64; 0]);
        assert_eq!(disk.list("d").expect("listed"), [MERGED, DRAFT, REPLACED]);
        let disk = folder(&[MERGED, REPLACED]);
        merge.note(&disk, "d").expect("noted");
        assert_eq!(Merge::settle(&disk, "d").expect("settled"), [7]);
        assert_eq!(disk.list("d").expect("listed"), [MERGED]);
    }

    #[test]
    fn a_torn_note_is_not_acted_on() {
        let disk = folder(&[MERGED, REPLACED]);
        Merge { into: 0, gone: vec![7] }.note(&disk, "d").expect("noted");
        disk.truncate("d/merge", 20).expect("cut");
        assert_eq!(Merge::settle(&disk, "d").expect("settled"), [0_i64; 0]);
        assert_eq!(disk.list("d").expect("listed"), [MERGED, REPLACED]);
    }
}

//! A data folder as it is, for people who look for the cause of something. Changes nothing and needs no broker.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::core::StorageError;
pub use crate::core::inspect::{
    BatchReport, GroupReport, OffsetReport, PartitionReport, Report, SegmentReport, TopicReport,
};
pub use crate::core::views::{ProducerView, TransactionStatus, TransactionView};
use crate::files::FileDisk;
use crate::wire;

/// A broker's data folder, opened for reading.
pub struct Folder {
    root: PathBuf,
    disk: Arc<FileDisk>,
}

impl Folder {
    /// Opens the folder.
    ///
    /// # Errors
    /// If it is not there or may not be read.
    pub fn open(root: &Path) -> io::Result<Self> {
        Ok(Self { root: root.to_owned(), disk: Arc::new(FileDisk::for_reading(root)?) })
    }

    /// Whether a broker is using it, so that what is read may change meanwhile.
    #[must_use]
    pub fn is_in_use(&self) -> bool {
        FileDisk::is_taken(&self.root)
    }

    /// Everything but the records; with `verify` they are read as well, and every checksum is checked.
    ///
    /// # Errors
    /// If the folder cannot be read or its journal is broken. A broken partition is part of the report.
    pub fn report(&self, verify: bool) -> Result<Report, StorageError> {
        crate::core::inspect::inspect(self.disk.clone(), wire::now(), verify)
    }

    /// Up to `max` batches of a partition, from the one that holds the offset `from` on.
    ///
    /// # Errors
    /// If the folder cannot be read. Where no batch can be made out, the list ends.
    pub fn batches(
        &self,
        partition: &PartitionReport,
        from: i64,
        max: usize,
    ) -> Result<Vec<BatchReport>, StorageError> {
        crate::core::inspect::batches(&*self.disk, partition, from, max)
    }
}

//! What makes changes last, as the writer sees it.

use xlreg_core::Change;

use crate::StoreError;

/// Where the writer keeps changes: a file, or, in a simulation, a disk that fails on purpose.
pub(crate) trait Ledger: Send + 'static {
    /// Makes the changes durable, all or none, in this order.
    ///
    /// After an error the ledger must not be used again: whether they were kept shows when it is
    /// opened anew.
    fn keep(&mut self, changes: &[&Change]) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Whether a checkpoint would have something to do.
    fn is_dirty(&self) -> bool;

    /// Whether a checkpoint can't wait for a quiet moment.
    fn is_due(&self) -> bool;

    /// Puts in order what has been kept.
    fn checkpoint(&mut self) -> Result<(), StoreError>;

    /// Leaves everything in order behind.
    fn close(self) -> Result<(), StoreError>;
}

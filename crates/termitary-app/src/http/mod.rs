//! What every route shares.

//! Settings, from the environment and flags.

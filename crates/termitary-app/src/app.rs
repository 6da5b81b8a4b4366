//! The application state.

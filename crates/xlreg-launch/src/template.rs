//! The same in any shape: placeholders in arguments, variables and files.

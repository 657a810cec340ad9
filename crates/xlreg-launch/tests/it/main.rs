//! Real programs, started, watched and ended as users see it.

mod programs;

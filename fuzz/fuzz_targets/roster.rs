#![no_main]
libfuzzer_sys::fuzz_target!(|input: &[u8]| xlreg_fuzz::texts::roster(input));

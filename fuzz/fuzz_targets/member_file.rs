#![no_main]
libfuzzer_sys::fuzz_target!(|input: &str| xlreg_fuzz::texts::member_file(input));

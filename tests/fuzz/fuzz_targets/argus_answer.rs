#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz_targets::messages::argus_answer(data));

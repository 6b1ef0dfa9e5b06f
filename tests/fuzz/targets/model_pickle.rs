#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    candle_radfoam::exchange::fuzzing::model_pickle(bytes);
});

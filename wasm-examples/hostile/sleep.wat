;; Waits for a nanosecond and computes for a moment, without end: it is never long enough at it to be interrupted.
(module
    (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 1)
    (func (export "_start") (local $turns i32)
        (i32.store (i32.const 16) (i32.const 1))
        (i64.store (i32.const 24) (i64.const 1))
        (loop $ever
            (drop (call $poll (i32.const 0) (i32.const 128) (i32.const 1) (i32.const 256)))
            (local.set $turns (i32.const 20000))
            (loop $turn
                (local.set $turns (i32.sub (local.get $turns) (i32.const 1)))
                (br_if $turn (local.get $turns)))
            (br $ever))))

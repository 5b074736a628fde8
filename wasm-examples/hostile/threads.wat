;; Starts threads without end, which do the same, and waits by an instruction that nobody else ever ends.
(module
    (import "wasi" "thread-spawn" (func $spawn (param i32) (result i32)))
    (import "env" "memory" (memory 1 1 shared))
    (export "memory" (memory 0))
    (func $multiply
        (loop $more (br_if $more (i32.gt_s (call $spawn (i32.const 0)) (i32.const 0))))
        (loop $ever
            (drop (memory.atomic.wait32 (i32.const 0) (i32.const 0) (i64.const -1)))
            (br $ever)))
    (func (export "wasi_thread_start") (param i32 i32) (call $multiply))
    (func (export "_start") (call $multiply)))

;; Writes to a file without end, and ends with the error's code once that is refused.
(module
    (import "wasi_snapshot_preview1" "path_open"
        (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
    (memory (export "memory") 2)
    (data (i32.const 0) "file")
    (data (i32.const 16) "\00\00\01\00\00\00\01\00")
    (func (export "_start") (local $error i32)
        (if (call $open (i32.const 3) (i32.const 0) (i32.const 0) (i32.const 4) (i32.const 1)
                (i64.const 66) (i64.const 66) (i32.const 0) (i32.const 8))
            (then unreachable))
        (loop $more
            (local.set $error (call $write (i32.load (i32.const 8)) (i32.const 16) (i32.const 1) (i32.const 12)))
            (br_if $more (i32.eqz (local.get $error))))
        (call $exit (local.get $error))))

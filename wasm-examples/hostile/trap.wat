;; Traps at its first instruction.
(module (memory (export "memory") 1) (func $fall (unreachable)) (func (export "_start") (call $fall)))

;; Holds a backend's answer until it can no longer be taken back.
;;
;; Envoy retries an upstream request on another host or cluster only while nothing of its answer has gone
;; down to the caller. As an upstream HTTP filter this module keeps an answer from going down too early:
;;
;;   every answer                        its headers wait for the first body byte, the end or the trailers
;;   content-type: application/json      headers and body wait for the end or the trailers, up to 16 MiB
;;
;; So a backend that dies or stalls after its headers, or in the middle of a JSON document, fails over and the
;; caller never knows. NDJSON, server-sent events and all other types stream from their first byte on.
;;
;; The host is Envoy's proxy-wasm ABI 0.2.1, https://github.com/proxy-wasm/spec. Each Envoy worker runs one instance
;; on one thread. A callback that is not exported here (requests, trailers, configuration) means "continue".
;; The plugin must be configured with `allow_on_headers_stop_iteration: true`: without it a pause at the headers
;; also stops the body, and the body is what this module waits for.
;;
;; `python -m ops.data_plane.hold_filter` compiles this file to hold_response.wasm, which is the file that Envoy loads.

(module
  ;; get_header_map_value(map, key, key_size, &value, &value_size) -> status. Envoy copies the value into memory
  ;; that it asks proxy_on_memory_allocate for, and writes its address and size to the last two arguments.
  (import "env" "proxy_get_header_map_value"
    (func $get_header_map_value (param i32 i32 i32 i32 i32) (result i32)))

  ;; Memory, in pages of 64 KiB:
  ;;   page 0     the constants, the two result words and the buckets below
  ;;   page 1     $VALUE, where the host puts a header's value
  ;;   page 2 …   the nodes, a page more whenever they run out, up to the maximum
  (memory (export "memory") 3 130)

  (global $CONTENT_TYPE i32 (i32.const 16))
  (global $CONTENT_TYPE_SIZE i32 (i32.const 12))
  (data (i32.const 16) "content-type")
  (global $VALUE_ADDRESS i32 (i32.const 32))
  (global $VALUE_SIZE i32 (i32.const 36))

  ;; Envoy refuses an answer whose headers exceed 60 KiB together (its default), so any single value fits.
  (global $VALUE i32 (i32.const 0x10000))
  (global $VALUE_SIZE_MAX i32 (i32.const 0x10000))

  ;; proxy_status_t, proxy_header_map_type_t and what Envoy understands by a callback's result.
  (global $OK i32 (i32.const 0))
  (global $RESPONSE_HEADERS i32 (i32.const 2))
  (global $CONTINUE i32 (i32.const 0))
  (global $PAUSE i32 (i32.const 1))

  ;; A JSON answer that has grown beyond this is let go and streams on. Envoy itself answers 500 when a held body
  ;; outgrows its buffer, the larger of the route's `request_body_buffer_limit` and the listener's
  ;; `per_connection_buffer_limit_bytes` (1 MiB by default): that must have room for this and one read, 1 MiB, more.
  (global $HELD_BYTES_MAX i32 (i32.const 0x1000000)) ;; 16 MiB

  ;; The streams whose body is held, as a set: a hash table of chained nodes. A node is two words, the stream's id
  ;; and the address of the next node of its chain; 0 ends a chain. A stream's id is Envoy's 32-bit context id. It
  ;; is counted up and unique among the live ones, so its low bits spread well, and comparing it whole is exact.
  ;; One page holds 8192 nodes, so at its maximum this memory holds a million streams.
  (global $BUCKETS i32 (i32.const 0x400))
  (global $BUCKET_MASK i32 (i32.const 0xfff)) ;; 4096 buckets of one word
  (global $NODE_SIZE i32 (i32.const 8))
  (global $nodes_end (mut i32) (i32.const 0x20000))
  (global $free_nodes (mut i32) (i32.const 0)) ;; a chain too

  ;; The address of the word that points to the stream's node, or of the 0 at the end of its chain.
  (func $link_to (param $stream i32) (result i32)
    (local $link i32)
    (local $node i32)
    (local.set $link
      (i32.add
        (global.get $BUCKETS)
        (i32.shl (i32.and (local.get $stream) (global.get $BUCKET_MASK)) (i32.const 2))))
    (block $found
      (loop $chain
        (local.set $node (i32.load (local.get $link)))
        (br_if $found (i32.eqz (local.get $node)))
        (br_if $found (i32.eq (i32.load (local.get $node)) (local.get $stream)))
        (local.set $link (i32.add (local.get $node) (i32.const 4)))
        (br $chain)))
    (local.get $link))

  ;; The address of an unused node, or 0 when the memory is at its maximum.
  (func $take_node (result i32)
    (local $node i32)
    (local.set $node (global.get $free_nodes))
    (if (local.get $node)
      (then
        (global.set $free_nodes (i32.load offset=4 (local.get $node)))
        (return (local.get $node))))
    (if (i32.eq (global.get $nodes_end) (i32.shl (memory.size) (i32.const 16)))
      (then
        (if (i32.eq (memory.grow (i32.const 1)) (i32.const -1))
          (then (return (i32.const 0))))))
    (local.set $node (global.get $nodes_end))
    (global.set $nodes_end (i32.add (local.get $node) (global.get $NODE_SIZE)))
    (local.get $node))

  (func $is_held (param $stream i32) (result i32)
    (i32.ne (i32.load (call $link_to (local.get $stream))) (i32.const 0)))

  ;; Puts the stream into the set. Without memory for it the stream stays outside: it is then not held whole.
  (func $hold (param $stream i32)
    (local $link i32)
    (local $node i32)
    (local.set $link (call $link_to (local.get $stream)))
    (if (i32.load (local.get $link))
      (then (return)))
    (local.set $node (call $take_node))
    (if (i32.eqz (local.get $node))
      (then (return)))
    (i32.store (local.get $node) (local.get $stream))
    (i32.store offset=4 (local.get $node) (i32.const 0))
    (i32.store (local.get $link) (local.get $node)))

  ;; Takes the stream out of the set if it is there.
  (func $let_go (param $stream i32)
    (local $link i32)
    (local $node i32)
    (local.set $link (call $link_to (local.get $stream)))
    (local.set $node (i32.load (local.get $link)))
    (if (i32.eqz (local.get $node))
      (then (return)))
    (i32.store (local.get $link) (i32.load offset=4 (local.get $node)))
    (i32.store offset=4 (local.get $node) (global.get $free_nodes))
    (global.set $free_nodes (local.get $node)))

  ;; Eight bytes with ASCII capitals made small: bit 5 set, which the other bytes of "application/json" carry anyway.
  (func $load_folded (param $address i32) (result i64)
    (i64.or (i64.load align=1 (local.get $address)) (i64.const 0x2020202020202020)))

  ;; Whether the answer's media type is application/json, in whatever case and with whatever parameters. Its longer
  ;; neighbours, application/jsonl and application/json-seq, are streams.
  (func $is_json (result i32)
    (local $value i32)
    (local $size i32)
    (local $next i32)
    (if (i32.ne
          (call $get_header_map_value
            (global.get $RESPONSE_HEADERS)
            (global.get $CONTENT_TYPE) (global.get $CONTENT_TYPE_SIZE)
            (global.get $VALUE_ADDRESS) (global.get $VALUE_SIZE))
          (global.get $OK))
      (then (return (i32.const 0))))
    (local.set $value (i32.load (global.get $VALUE_ADDRESS)))
    (local.set $size (i32.load (global.get $VALUE_SIZE)))
    (if (i32.lt_u (local.get $size) (i32.const 16))
      (then (return (i32.const 0))))
    (if (i64.ne (call $load_folded (local.get $value)) (i64.const 0x7461_6369_6c70_7061)) ;; "applicat"
      (then (return (i32.const 0))))
    (if (i64.ne
          (call $load_folded (i32.add (local.get $value) (i32.const 8)))
          (i64.const 0x6e6f_736a_2f6e_6f69)) ;; "ion/json"
      (then (return (i32.const 0))))
    (if (i32.eq (local.get $size) (i32.const 16))
      (then (return (i32.const 1))))
    (local.set $next (i32.load8_u offset=16 (local.get $value)))
    (i32.or
      (i32.eq (local.get $next) (i32.const 0x3b)) ;; ";"
      (i32.or
        (i32.eq (local.get $next) (i32.const 0x20)) ;; space
        (i32.eq (local.get $next) (i32.const 0x09))))) ;; tab

  ;; Its presence tells the host which ABI this module speaks; it is never called.
  (func (export "proxy_abi_version_0_2_1"))

  ;; Where the host may write $size bytes; 0 refuses, and the host then fails the call that it needed them for. One
  ;; place serves all: a value is read before the next is asked for.
  (func (export "proxy_on_memory_allocate") (param $size i32) (result i32)
    (select
      (global.get $VALUE)
      (i32.const 0)
      (i32.le_u (local.get $size) (global.get $VALUE_SIZE_MAX))))

  (func (export "proxy_on_response_headers")
      (param $stream i32) (param $header_count i32) (param $end_of_stream i32) (result i32)
    (if (local.get $end_of_stream)
      (then (return (global.get $CONTINUE))))
    (if (call $is_json)
      (then (call $hold (local.get $stream))))
    (global.get $PAUSE))

  ;; $held_bytes counts the chunk that just came and all that are held back with it.
  (func (export "proxy_on_response_body")
      (param $stream i32) (param $held_bytes i32) (param $end_of_stream i32) (result i32)
    (if (local.get $end_of_stream)
      (then (return (global.get $CONTINUE))))
    (if (i32.eqz (local.get $held_bytes)) ;; an empty chunk is no first byte
      (then (return (global.get $PAUSE))))
    (if (i32.eqz (call $is_held (local.get $stream)))
      (then (return (global.get $CONTINUE))))
    (if (i32.gt_u (local.get $held_bytes) (global.get $HELD_BYTES_MAX))
      (then
        (call $let_go (local.get $stream))
        (return (global.get $CONTINUE))))
    (global.get $PAUSE))

  ;; Every stream ends here, however it ended; its id may come again.
  (func (export "proxy_on_delete") (param $stream i32)
    (call $let_go (local.get $stream))))

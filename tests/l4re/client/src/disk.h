/// \file
/// A virtio block session, seen through L4Re's own client library.
#pragma once

#include <l4/l4virtio/client/virtio-block>
#include <l4/re/env>
#include <l4/re/error_helper>

#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <vector>

/**
 * L4Re's `Block_device`, with what a test needs besides: where each request's status byte is, a wait that ends, and
 * a look at the rings.
 *
 * The library's asynchronous path hands a callback the status byte of the wrong descriptor (the head's instead of the
 * last one's). So this class maps the queue memory a second time and finds the byte by walking the chain.
 */
class Disk : public L4virtio::Driver::Block_device
{
  using Base = L4virtio::Driver::Block_device;
  using Ring = L4virtio::Driver::Virtqueue;

public:
  enum : unsigned { Sector = 512, Pending = 0xff };

  /// Who is told when a request has ended.
  struct Waiter
  {
    virtual void ended(unsigned slot, unsigned char status) = 0;

  protected:
    ~Waiter() = default;
  };

  /**
   * Connects, registers the queues and `payload` bytes for data in one dataspace, and finishes the handshake.
   *
   * \param queue_ds  Memory to use for all of it; an invalid capability lets the library allocate.
   */
  void open(L4::Cap<L4virtio::Device> session, size_t payload, L4::Cap<L4Re::Dataspace> queue_ds)
  {
    void *data = nullptr;
    setup_device(session, payload, &data, _data_dev, queue_ds);
    _data = static_cast<unsigned char *>(data);

    _num = max_queue_size(0);
    _headers = l4_round_size(Ring::total_size(_num), 3);
    size_t const status = _headers + _num * sizeof(l4virtio_block_header_t);
    _queue_dev = _data_dev.get() - l4_round_page(status + _num);
    L4Re::chksys(L4Re::Env::env()->rm()->attach(&_view, l4_round_page(status + _num),
                                                L4Re::Rm::F::Search_addr | L4Re::Rm::F::RW,
                                                L4::Ipc::make_cap_rw(_queue_ds), 0, L4_PAGESHIFT),
                 "Attach the queue memory once more");
    _status = _view.get() + status;
    memset(_status, Pending, _num);
    _ops.resize(_num);
  }

  /// How much memory `open` needs for queues of `num` entries and `payload` bytes.
  static size_t memory_for(unsigned num, size_t payload)
  {
    size_t const headers = l4_round_size(Ring::total_size(num), 3);
    return l4_round_page(headers + num * (sizeof(l4virtio_block_header_t) + 1)) + l4_round_page(payload);
  }

  unsigned char *data(size_t offset = 0) const { return _data + offset; }
  L4virtio::Ptr<void> dev(size_t offset) const { return L4virtio::Ptr<void>(_data_dev.get() + offset); }
  unsigned queue_size() const { return _num; }
  unsigned features(unsigned word) const { return _config->dev_features_map[word]; }
  unsigned dev_status() const { return _config->status; }
  L4::Cap<L4virtio::Device> session() const { return _device; }

  /**
   * Sends a request; `waiter` gets its slot and its status byte.
   *
   * \param slot      A number of the caller's choice below the queue's size, not in use.
   * \param segments  The payload is cut into so many descriptors, each a multiple of `grain` bytes.
   */
  bool submit(Waiter &waiter, unsigned slot, l4_uint32_t type, l4_uint64_t sector, size_t offset, size_t size,
              unsigned segments, unsigned grain)
  {
    auto const h = start(waiter, slot, type, sector);
    if (!h.valid())
      return false;
    while (size)
      {
        size_t part = segments > 1 ? size / segments / grain * grain : size;
        if (!part)
          part = size < grain ? size : grain;
        if (add_block(h, dev(offset), part) < 0)
          return false;
        offset += part;
        size -= part;
        if (segments > 1)
          --segments;
      }
    return send_request(h) == L4_EOK;
  }

  /// Waits for a notification and handles what has ended; false when nothing came within `ms`.
  bool work(unsigned ms)
  {
    bool const notified = !l4_ipc_error(_driver_notification->down(l4_timeout(L4_IPC_TIMEOUT_NEVER,
                                                                              l4_timeout_from_us(ms * 1000))),
                                        l4_utcb());
    process_used_queue();
    return notified;
  }

  /// One request, start to end; its status byte, or `Pending` if it has not ended after `ms`.
  unsigned char one(l4_uint32_t type, l4_uint64_t sector, size_t offset, size_t size, unsigned ms = 5000)
  {
    if (_restarted)
      return raw_one(type, sector, offset, size, ms);
    Single s;
    submit(s, _num - 1, type, sector, offset, size, 1, Sector);
    return await(s, ms);
  }

  /// As `one`, but with a payload at a device address of the caller's choice.
  unsigned char one_at(l4_uint32_t type, l4_uint64_t sector, l4_uint64_t address, l4_uint32_t size, unsigned ms = 5000)
  {
    Single s;
    auto const h = start(s, _num - 1, type, sector);
    add_block(h, L4virtio::Ptr<void>(address), size);
    send_request(h);
    return await(s, ms);
  }

  /**
   * Resets the device and sets the same queue up again in the memory that is registered already, which is what the driver
   * of a guest does at a reboot. From here on only `one` and `raw_chain` work: the library's own ring is out of step.
   *
   * \return Whether the device accepted it.
   */
  bool restart()
  {
    _restarted = true;
    _device->set_status(0);
    _device->set_status(L4VIRTIO_STATUS_ACKNOWLEDGE);
    _device->set_status(L4VIRTIO_STATUS_ACKNOWLEDGE | L4VIRTIO_STATUS_DRIVER);
    memset(_status, Pending, _num);
    _raw.init_queue(_num, _view.get());
    if (config_queue(0, _num, _queue_dev, _queue_dev + _raw.avail_offset(), _queue_dev + _raw.used_offset()) < 0)
      return false;
    _kick = L4Re::chkcap(L4Re::Util::make_unique_cap<L4::Irq>());
    if (_device->device_notification_irq(0, _kick.get()) < 0 || bind_notification_irq(0, _driver_notification.get()) < 0)
      return false;
    _config->driver_features_map[0] = -1U;
    _config->driver_features_map[1] = -1U;
    return driver_acknowledge() == L4_EOK;
  }

  /// One descriptor as it lies in the ring: flags 1 = another follows, 2 = the device writes, 4 = indirect.
  struct Wire_desc
  {
    l4_uint64_t addr;
    l4_uint32_t len;
    l4_uint16_t flags, next;
  };

  /**
   * Offers the chain that begins at descriptor `head` after the caller's descriptors were written from index 0 on; needs
   * `restart`.
   *
   * \return Whether it ended within `ms`.
   */
  bool raw_chain(std::initializer_list<Wire_desc> descs, unsigned head, unsigned ms)
  {
    auto *table = reinterpret_cast<Wire_desc *>(_view.get());
    for (auto const &d : descs)
      *table++ = d;
    _raw.enqueue_descriptor(head);
    _kick->trigger();
    for (;;)
      {
        if (_raw.find_next_used() != Ring::Eoq)
          return true;
        if (fail_state()
            || l4_ipc_error(_driver_notification->down(l4_timeout(L4_IPC_TIMEOUT_NEVER, l4_timeout_from_us(ms * 1000))),
                            l4_utcb()))
          return _raw.find_next_used() != Ring::Eoq;
      }
  }

  /**
   * Waits until the device says that it needs a reset, of which the driver is notified.
   *
   * \return Whether it said so before nothing came for `ms`.
   */
  bool await_failure(unsigned ms)
  {
    while (!fail_state())
      if (l4_ipc_error(_driver_notification->down(l4_timeout(L4_IPC_TIMEOUT_NEVER, l4_timeout_from_us(ms * 1000))), l4_utcb()))
        return fail_state();
    return true;
  }

  /// Device addresses of the header and the status byte that `raw_chain`s can use.
  l4_uint64_t raw_header(l4_uint32_t type, l4_uint64_t sector)
  {
    l4virtio_block_header_t h = {type, 0, sector};
    memcpy(_view.get() + _headers, &h, sizeof(h));
    return _queue_dev + _headers;
  }
  l4_uint64_t raw_status() { return _queue_dev + (_status - _view.get()); }
  unsigned char take_raw_status()
  {
    unsigned char const s = *_status;
    *_status = Pending;
    return s;
  }

private:
  struct Op
  {
    l4_uint16_t head;
    Waiter *waiter;
  };

  struct Single final : Waiter
  {
    bool done = false;
    unsigned char status = Pending;
    void ended(unsigned, unsigned char s) override
    {
      done = true;
      status = s;
    }
  };

  /// The callback is small enough for `std::function` to hold it without an allocation.
  Handle start(Waiter &waiter, unsigned slot, l4_uint32_t type, l4_uint64_t sector)
  {
    auto const h = start_request(sector, type, [this, slot](unsigned char) {
      Op const op = _ops[slot];
      op.waiter->ended(slot, take_status(op.head));
    });
    static_assert(sizeof(h) == sizeof(Op::head), "a handle is the number of its first descriptor");
    memcpy(&_ops[slot].head, &h, sizeof(h));
    _ops[slot].waiter = &waiter;
    return h;
  }

  unsigned char await(Single const &s, unsigned ms)
  {
    while (!s.done)
      if (!work(ms))
        break;
    // A request that is still out must not find the waiter gone.
    if (!s.done)
      _ops[_num - 1].waiter = &_late;
    return s.status;
  }

  unsigned char raw_one(l4_uint32_t type, l4_uint64_t sector, size_t offset, size_t size, unsigned ms)
  {
    l4_uint16_t const in = type == L4VIRTIO_BLOCK_T_IN || type == L4VIRTIO_BLOCK_T_GET_ID ? 2 : 0;
    l4_uint32_t const len = size;
    Wire_desc const header = {raw_header(type, sector), sizeof(l4virtio_block_header_t), 1, 1};
    Wire_desc const status = {raw_status(), 1, 2, 0};
    bool const ended = size ? raw_chain({header, {dev(offset).get(), len, l4_uint16_t(in | 1), 2}, status}, 0, ms)
                            : raw_chain({header, status}, 0, ms);
    return ended ? take_raw_status() : static_cast<unsigned char>(Pending);
  }

  /// The status byte of the chain that begins at `head`; it has just been freed, but its links are still there.
  unsigned char take_status(unsigned head)
  {
    auto const *desc = reinterpret_cast<Wire_desc const *>(_view.get());
    for (unsigned n = 0; n < _num && (desc[head].flags & 1); ++n)
      head = desc[head].next;
    unsigned char const s = _status[head];
    _status[head] = Pending;
    return s;
  }

  L4Re::Rm::Unique_region<unsigned char *> _view;
  L4virtio::Ptr<void> _data_dev;
  unsigned char *_data = nullptr;
  unsigned char *_status = nullptr;
  unsigned _num = 0;
  std::vector<Op> _ops;
  Single _late;
  size_t _headers = 0;
  l4_uint64_t _queue_dev = 0;
  bool _restarted = false;
  Ring _raw;
  L4Re::Util::Unique_cap<L4::Irq> _kick;
};

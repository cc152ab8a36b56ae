# Waits in many ways, a thread for each. With an argument it first writes what Ruby itself knows as its stacks.
require 'socket'
require 'monitor'
require 'timeout'
require 'set'

module Shop
  class Orders
    attr_reader :lock

    def initialize
      @lock = Mutex.new
      @monitor = Monitor.new
      @queue = Queue.new
      @ready = ConditionVariable.new
      @sockets = UNIXSocket.pair
    end

    def reserve(count)
      @lock.synchronize { count + 1 }
    end

    def with_lock
      @lock.lock
    ensure
      @lock.unlock
    end

    def entered
      @monitor.synchronize do
        @monitor.synchronize { @queue.pop }
      end
    end

    def signaled
      own = Mutex.new
      own.synchronize { @ready.wait(own) }
    end

    def received
      @sockets.first.read(10)
    end

    def selected
      IO.select([@sockets.last])
    end

    def deep(left)
      return sleep if left.zero?

      deep(left - 1)
    end

    define_method(:defined) { |time| [time].each { |one| sleep(one) } }

    def method_missing(name, *arguments)
      name == :missing ? arguments.map { |one| sleep(one) } : super
    end

    def respond_to_missing?(*)
      true
    end

    def <=>(other)
      sleep
    end
    include Comparable

    def rescued
      raise 'x'
    rescue StandardError
      begin
        raise 'y'
      rescue StandardError
        sleep
      ensure
        @count = 1
      end
    ensure
      @count = 2
    end

    def ensured
      raise 'x'
    ensure
      sleep
    end

    def self.made
      new.tap { |orders| orders.instance_eval { sleep } }
    end

    def long
      values = []
      values << 1 << 2 << 3 << 4 << 5 << 6 << 7 << 8
      values << 1 if values.empty?
      values << 2 if values.empty?
      values << 3 if values.empty?
      values << 4 if values.empty?
      values << 5 if values.empty?
      values << 6 if values.empty?
      values << 7 if values.empty?
      values << 8 if values.empty?
      values << 9 if values.empty?
      values << 1 if values.empty?
      values << 2 if values.empty?
      values << 3 if values.empty?
      values << 4 if values.empty?
      values << 5 if values.empty?
      values << 6 if values.empty?
      values << 7 if values.empty?
      values << 8 if values.empty?
      values << 9 if values.empty?
      values << 1 if values.empty?
      values << 2 if values.empty?
      values << 3 if values.empty?
      values << 4 if values.empty?
      values << 5 if values.empty?
      values << 6 if values.empty?
      values << 7 if values.empty?
      values << 8 if values.empty?
      values << 9 if values.empty?
      values << 1 if values.empty?
      values << 2 if values.empty?
      values << 3 if values.empty?
      values << 4 if values.empty?
      values << 5 if values.empty?
      values.each { |_one| sleep }
      values << 6 if values.empty?
    end
  end
end

orders = Shop::Orders.new
orders.lock.lock
threads = [
  -> { orders.reserve(1) },
  -> { orders.with_lock },
  -> { orders.entered },
  -> { orders.signaled },
  -> { orders.received },
  -> { orders.selected },
  -> { orders.deep(20) },
  -> { orders.deep(500) },
  -> { orders.defined(1000) },
  -> { orders.missing(1000) },
  -> { [orders, Shop::Orders.new].sort },
  -> { orders < Shop::Orders.new },
  -> { orders.rescued },
  -> { orders.ensured },
  -> { Shop::Orders.made },
  -> { orders.long },
  -> { orders.public_send(:deep, 1) },
  -> { eval("\n\n1.times { orders.deep(2) }") },
  -> { eval("1.times { orders.deep(2) }", binding, 'заказы_é.rb', 77) },
  -> { Fiber.new { orders.deep(3) }.resume },
  -> { Enumerator.new { |one| one << 1; sleep }.each { |one| one } },
  -> { Enumerator.new { |one| orders.deep(1) }.next },
  -> { { a: 1 }.each_pair { |_key, _value| { b: 2 }.map { sleep } } },
  -> { Hash.new { |hash, key| sleep }[:missing] },
  -> { Set.new([1]).each { orders.deep(1) } },
  -> { Timeout.timeout(100_000) { sleep } },
  -> { catch(:done) { loop { sleep } } },
  -> { Class.new { def initialize; sleep; end }.new },
  -> { "a#{Class.new { def to_s; sleep; end }.new}" },
  -> { TCPServer.new('127.0.0.1', 0).accept },
  -> { Process.wait(spawn('/bin/sleep', '1000')) },
  -> { Thread.new { sleep }.join },
  -> { Thread.new { Thread.current.name = 'a'; sleep }.value },
  -> { Module.new.module_eval { sleep } },
  -> { orders.method(:deep).to_proc.call(1) },
  -> { [3, 1, 2].sort_by { |one| sleep } },
  -> { [1, 2].inject { |one, other| sleep } },
  -> { ObjectSpace.each_object(Class) { sleep } },
].map { |work| Thread.new(&work) }
sleep 0.5
if ARGV[0]
  require 'json'
  stacks = Thread.list.reject { |thread| thread == Thread.main }.map { |thread| thread.backtrace }
  File.write(ARGV[0], JSON.generate(stacks))
end
$stdout.puts 'ready'
$stdout.flush
threads.first.join

<?php
// Waits in one of many ways; the first argument selects it. With a second argument it first writes what PHP itself knows as its stack.
namespace Shop\Orders;

function noted(array $calls, int $line): void
{
    if (isset($_SERVER['argv'][2])) {
        file_put_contents($_SERVER['argv'][2], json_encode([$line, __FILE__, $calls]));
    }
    if (function_exists('cli_set_process_title')) {
        fwrite(STDOUT, "ready\n");
    }
}

abstract class Stock
{
    public function __call($name, $arguments)
    {
        return $this->reserve(...$arguments);
    }

    public static function __callStatic($name, $arguments)
    {
        return (new Shelf())->reserve(...$arguments);
    }

    public function __get($name)
    {
        return $this->reserve(1);
    }

    public function __toString(): string
    {
        return $this->reserve(2);
    }

    abstract public function reserve(int $count);
}

trait Waits
{
    public function waits(int $seconds)
    {
        noted(debug_backtrace(), __LINE__); sleep($seconds);
    }
}

class Shelf extends Stock implements \IteratorAggregate, \Countable
{
    use Waits;

    public function reserve(int $count)
    {
        return $this->waits(1000 + $count);
    }

    #[\ReturnTypeWillChange]
    public function getIterator()
    {
        yield 1;
        yield $this->reserve(3);
    }

    #[\ReturnTypeWillChange]
    public function count()
    {
        return $this->reserve(4);
    }

    public static function locked(string $path)
    {
        $first = fopen($path, 'c');
        $other = fopen($path, 'c');
        flock($first, LOCK_EX);
        noted(debug_backtrace(), __LINE__); flock($other, LOCK_EX);
    }

    public function __destruct()
    {
        if ($GLOBALS['argv'][1] === 'destructor') {
            $this->reserve(5);
        }
    }
}

function deep(int $left)
{
    return $left > 0 ? deep($left - 1) : (new Shelf())->reserve(6);
}

function generated()
{
    $received = yield 1;
    yield from (function () {
        yield (new Shelf())->reserve(7);
    })();
}

function received()
{
    [$one, $other] = stream_socket_pair(STREAM_PF_UNIX, STREAM_SOCK_STREAM, 0);
    noted(debug_backtrace(), __LINE__); fread($one, 100);
}

$cases = [
    'plain' => function () { (new Shelf())->reserve(0); },
    'lock' => function () { Shelf::locked(sys_get_temp_dir() . '/closewait-waits-php'); },
    'receive' => 'Shop\Orders\received',
    'map' => function () { array_map(function ($count) { return array_map([new Shelf(), 'reserve'], [$count]); }, [8]); },
    'sort' => function () { $list = [2, 1]; usort($list, function ($one, $other) { return (new Shelf())->reserve(9); }); },
    'call' => function () { (new Shelf())->anything(10); },
    'static' => function () { Shelf::anything(11); },
    'get' => function () { return (new Shelf())->anything; },
    'text' => function () { return 'a ' . new Shelf(); },
    'count' => function () { return count(new Shelf()); },
    'iterate' => function () { foreach (new Shelf() as $item) { $last = $item; } },
    'generator' => function () { foreach (generated() as $item) { $last = $item; } },
    'deep' => function () { deep(20); },
    'deeper' => function () { deep(300); },
    'anonymous' => function () { (new class extends Shelf { public function reserve(int $count) { return parent::reserve($count); } })->reserve(12); },
    'eval' => function () { eval("\n\n(new \\Shop\\Orders\\Shelf())->reserve(13);"); },
    'include' => function () { include __DIR__ . '/waits-included.php'; },
    'require' => function () { require_once __DIR__ . '/waits-included.php'; },
    'reflection' => function () { (new \ReflectionMethod(Shelf::class, 'reserve'))->invoke(new Shelf(), 14); },
    'callback' => function () { call_user_func_array([new Shelf(), 'reserve'], [15]); },
    'error' => function () { set_error_handler(function () { (new Shelf())->reserve(16); }); $undefined = $nothing; },
    'finally' => function () { try { throw new \Exception('x'); } finally { (new Shelf())->reserve(17); } },
    'autoload' => function () { spl_autoload_register(function ($class) { (new Shelf())->reserve(18); }); new Missing(); },
    'destructor' => function () { $shelf = new Shelf(); unset($shelf); },
    'shutdown' => function () { register_shutdown_function(function () { (new Shelf())->reserve(19); }); exit(0); },
    'buffer' => function () { ob_start(function ($text) { (new Shelf())->reserve(20); return $text; }, 1); echo 'text'; },
    'bound' => function () { \Closure::bind(function () { return $this->reserve(21); }, new Shelf(), Shelf::class)(); },
    'fiber' => function () { (new \Fiber(function () { deep(3); }))->start(); },
    'resumed' => function () { $fiber = new \Fiber(function () { \Fiber::suspend(1); deep(3); }); $fiber->start(); array_map(function () use ($fiber) { $fiber->resume(); }, [1]); },
    'busy' => function () { noted(debug_backtrace(), __LINE__); while (true) { $many = strlen(str_repeat('x', 100000)); } },
];
$cases[$argv[1]]();

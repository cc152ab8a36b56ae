// Threads of C++ that wait below methods, templates, lambdas and a handler of an exception: -O2 -fno-omit-frame-pointer -static-pie.
#include <condition_variable>
#include <functional>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>
#include <unistd.h>

#define OWN __attribute__((noinline, noclone))

namespace shop {

static std::mutex lock;
static volatile int sink;

struct Order {
    virtual ~Order() = default;
    virtual int reserve(const std::string &name, int count) = 0;
    int operator()(int count) { return reserve("it", count) + 1; }
};

template <typename T> struct Stock : Order {
    OWN int reserve(const std::string &name, int count) override {
        std::lock_guard<std::mutex> own(lock);
        return count + static_cast<int>(name.size());
    }
};

template <typename T, int N> class Queue {
    std::mutex own;
    std::condition_variable filled;
    std::vector<T> items;

  public:
    OWN T take() {
        std::unique_lock<std::mutex> held(own);
        filled.wait(held, [this] { return !items.empty(); });
        return items.back();
    }
};

namespace {
OWN int caught(int n) {
    try {
        throw std::runtime_error("no");
    } catch (const std::exception &) {
        return static_cast<int>(sleep(100000)) + n;
    }
}
} // namespace

} // namespace shop

int main() {
    shop::lock.lock();
    shop::Stock<long> stock;
    shop::Queue<std::string, 7> queue;
    std::vector<std::thread> threads;
    threads.emplace_back([&] { shop::sink = stock(1); });
    threads.emplace_back([&] { shop::sink = static_cast<int>(queue.take().size()); });
    threads.emplace_back([&] {
        std::function<int(int)> call = [](int n) { return shop::caught(n) + 1; };
        shop::sink = call(2) + 1;
    });
    threads[0].join();
}

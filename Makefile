# Set-up and daily commands.  Meson does the building; this file makes sure
# that everything it needs is there and gives the common tasks short names.
#   make          build            make check        all tests
#   make demo     see it work      make check-quick  the fast ones
#   make install  below /usr/local (DESTDIR=... before it)
#   make check-install             that, in a blank Debian (root, network)
#   make bench    measure it against QEMU
#   make asan     all tests under ASan and UBSan     make tsan  under TSan
#   make fuzz     all fuzzers, SECONDS=60 each
#   make format   rewrite the C files as .clang-format says
#   make lint     look for faults with clang-tidy and cppcheck
#   make coverage which lines the tests run (TESTS=quick, all or soak)
BUILD ?= build
JOBS ?= $(shell nproc)
SECONDS ?= 60
TESTS ?= all
MESON_SETUP = meson setup --prefix=/usr/local

.PHONY: all everything deps demo-deps test-deps coverage-deps demo check check-quick soak fuzz asan tsan \
	clang bench format lint coverage install check-install clean
# What is installed; tests and measuring programs are more than that.
all: $(BUILD)/build.ninja
	ninja -C $(BUILD) -j $(JOBS) programs
everything: $(BUILD)/build.ninja
	ninja -C $(BUILD) -j $(JOBS)

# Quick and silent when everything is there.
deps:
	@scripts/install-packages build
demo-deps:
	@scripts/install-packages build demo
test-deps:
	@scripts/install-packages build test

$(BUILD)/build.ninja: | deps
	$(MESON_SETUP) $(BUILD)

demo: demo-deps $(BUILD)/build.ninja
	ninja -C $(BUILD) -j $(JOBS) sluice sluiced
	@scripts/demo $(BUILD)

check: test-deps everything
	@scripts/run-tests $(BUILD) all

check-quick: test-deps everything
	@scripts/run-tests $(BUILD) quick

soak: test-deps everything fuzz
	@scripts/run-tests $(BUILD) soak

build-fuzz/build.ninja: | test-deps
	CC=clang-14 $(MESON_SETUP) -Dfuzz=true -Db_sanitize=address,undefined \
	    -Db_lundef=false build-fuzz
fuzz: build-fuzz/build.ninja
	ninja -C build-fuzz -j $(JOBS) fuzzers
	@scripts/fuzz build-fuzz $(SECONDS)

build-asan/build.ninja: | test-deps
	$(MESON_SETUP) -Db_sanitize=address,undefined -Db_lundef=false build-asan
asan: build-asan/build.ninja
	ninja -C build-asan -j $(JOBS)
	@scripts/run-tests build-asan all

build-tsan/build.ninja: | test-deps
	$(MESON_SETUP) -Db_sanitize=thread -Db_lundef=false build-tsan
tsan: build-tsan/build.ninja
	ninja -C build-tsan -j $(JOBS)
	@scripts/run-tests build-tsan all

build-clang/build.ninja: | test-deps
	CC=clang-14 $(MESON_SETUP) build-clang
clang: build-clang/build.ninja
	ninja -C build-clang -j $(JOBS)

bench: test-deps everything
	@bench/run $(BUILD)

format: test-deps
	@tools/check-format --fix

lint: test-deps everything
	@tools/lint $(BUILD)

coverage-deps:
	@scripts/install-packages build test coverage
build-coverage/build.ninja: | coverage-deps
	$(MESON_SETUP) -Db_coverage=true --buildtype=debug build-coverage
coverage: build-coverage/build.ninja
	ninja -C build-coverage -j $(JOBS)
	find build-coverage -name '*.gcda' -delete
	scripts/run-tests build-coverage $(TESTS)
	@mkdir -p build-coverage/report
	@gcovr -j $(JOBS) --root . --filter src/ --sort-uncovered \
	    --html-details build-coverage/report/index.html \
	    --txt build-coverage/report/index.txt --print-summary build-coverage
	@echo "Line by line: build-coverage/report/index.html"

install: all
	DESTDIR="$(DESTDIR)" meson install -C $(BUILD) --no-rebuild
	@[ -n "$(DESTDIR)" ] || [ "$$(id -u)" != 0 ] || PATH="$$PATH:/sbin" ldconfig

check-install:
	@scripts/check-install

clean:
	rm -rf build build-asan build-tsan build-clang build-fuzz build-coverage

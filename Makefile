# For L4Re's build system, when this project lies in its folder of packages (doc/l4re.md). Elsewhere: cargo.
PKGDIR = .
L4DIR ?= $(PKGDIR)/../..

TARGET = platform/l4re/program

include $(L4DIR)/mk/subdir.mk

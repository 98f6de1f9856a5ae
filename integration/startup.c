/* What a command costs before it does anything: used by integration/check-static.
 *
 *   startup cpuid PROGRAM ARGS...   "CPUIDS INSTRUCTIONS": every instruction is stepped and looked at. In a virtual machine
 *                                   each CPUID is an exit to the hypervisor, tens of microseconds.
 *   startup time RUNS A B           "MEDIAN_A MEDIAN_B RATIO" of `A --version` and `B --version` in microseconds, taken in
 *                                   turns so that both see the same weather.
 */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void quiet(void)
{
	int null = open("/dev/null", O_RDWR);

	if (null < 0 || dup2(null, 1) < 0)
		err(1, "/dev/null");
}

static int is_cpuid(const unsigned char *code, ssize_t len)
{
	ssize_t i = 0;

	/* Legacy prefixes and REX, which change nothing about it. */
	while (i < len && (memchr("\x26\x2e\x36\x3e\x64\x65\x66\x67\xf2\xf3", code[i], 10) || (code[i] & 0xf0) == 0x40))
		i++;
	return i + 1 < len && code[i] == 0x0f && code[i + 1] == 0xa2;
}

static int count(char **argv)
{
	struct user_regs_struct regs;
	unsigned char code[15];
	unsigned long cpuids = 0, steps = 0;
	char path[64];
	int status, mem;
	pid_t pid = fork();

	if (pid < 0)
		err(1, "fork");
	if (pid == 0) {
		quiet();
		ptrace(PTRACE_TRACEME, 0, 0, 0);
		execv(argv[0], argv);
		err(127, "%s", argv[0]);
	}
	if (waitpid(pid, &status, 0) < 0 || !WIFSTOPPED(status))
		errx(1, "%s did not start", argv[0]);
	snprintf(path, sizeof(path), "/proc/%d/mem", pid); /* opened after the exec: it is the new program's memory */
	mem = open(path, O_RDONLY);
	if (mem < 0)
		err(1, "%s", path);
	for (;;) {
		int sig = WSTOPSIG(status) == SIGTRAP ? 0 : WSTOPSIG(status);

		if (ptrace(PTRACE_GETREGS, pid, 0, &regs) < 0)
			err(1, "PTRACE_GETREGS");
		cpuids += is_cpuid(code, pread(mem, code, sizeof(code), regs.rip));
		steps++;
		if (ptrace(PTRACE_SINGLESTEP, pid, 0, sig) < 0)
			err(1, "PTRACE_SINGLESTEP");
		if (waitpid(pid, &status, 0) < 0)
			err(1, "waitpid");
		if (!WIFSTOPPED(status))
			break;
	}
	printf("%lu %lu\n", cpuids, steps);
	if (status != 0)
		errx(1, "%s ended with status %#x", argv[0], status);
	return 0;
}

static double run(char *program)
{
	char *argv[] = { program, "--version", NULL };
	struct timespec a, b;
	int status;
	pid_t pid;

	clock_gettime(CLOCK_MONOTONIC, &a);
	pid = vfork();
	if (pid == 0) {
		execv(program, argv);
		_exit(127);
	}
	if (pid < 0 || waitpid(pid, &status, 0) < 0)
		err(1, "%s", program);
	clock_gettime(CLOCK_MONOTONIC, &b);
	if (status != 0)
		errx(1, "%s ended with status %#x", program, status);
	return (b.tv_sec - a.tv_sec) * 1e6 + (b.tv_nsec - a.tv_nsec) / 1e3;
}

static int by_size(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static int compare(int runs, char *a, char *b)
{
	FILE *out = fdopen(dup(1), "w");
	double *time[2] = { calloc(runs, sizeof(double)), calloc(runs, sizeof(double)) };

	quiet();
	for (int i = -10; i < runs; i++) { /* the first ten warm the page cache */
		double x = run(a), y = run(b);

		if (i >= 0)
			time[0][i] = x, time[1][i] = y;
	}
	for (int i = 0; i < 2; i++)
		qsort(time[i], runs, sizeof(double), by_size);
	fprintf(out, "%.0f %.0f %.2f\n", time[0][runs / 2], time[1][runs / 2], time[0][runs / 2] / time[1][runs / 2]);
	return fclose(out);
}

int main(int argc, char **argv)
{
	if (argc > 2 && strcmp(argv[1], "cpuid") == 0)
		return count(argv + 2);
	if (argc == 5 && strcmp(argv[1], "time") == 0 && atoi(argv[2]) > 0)
		return compare(atoi(argv[2]), argv[3], argv[4]);
	errx(2, "usage: startup cpuid PROGRAM ARGS... | startup time RUNS A B");
}

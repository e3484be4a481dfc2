#include "vmm/x86/cpu_features.h"
#include "base/checked.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* clang-format off */
static const struct cpu_feature features[] = {
	{"fpu", 0x1, 0, CPUID_EDX, 0},
	{"vme", 0x1, 0, CPUID_EDX, 1},
	{"de", 0x1, 0, CPUID_EDX, 2},
	{"pse", 0x1, 0, CPUID_EDX, 3},
	{"tsc", 0x1, 0, CPUID_EDX, 4},
	{"msr", 0x1, 0, CPUID_EDX, 5},
	{"pae", 0x1, 0, CPUID_EDX, 6},
	{"mce", 0x1, 0, CPUID_EDX, 7},
	{"cx8", 0x1, 0, CPUID_EDX, 8},
	{"sep", 0x1, 0, CPUID_EDX, 11},
	{"mtrr", 0x1, 0, CPUID_EDX, 12},
	{"pge", 0x1, 0, CPUID_EDX, 13},
	{"mca", 0x1, 0, CPUID_EDX, 14},
	{"cmov", 0x1, 0, CPUID_EDX, 15},
	{"pat", 0x1, 0, CPUID_EDX, 16},
	{"pse36", 0x1, 0, CPUID_EDX, 17},
	{"clflush", 0x1, 0, CPUID_EDX, 19},
	{"dts", 0x1, 0, CPUID_EDX, 21},
	{"acpi", 0x1, 0, CPUID_EDX, 22},
	{"mmx", 0x1, 0, CPUID_EDX, 23},
	{"fxsr", 0x1, 0, CPUID_EDX, 24},
	{"sse", 0x1, 0, CPUID_EDX, 25},
	{"sse2", 0x1, 0, CPUID_EDX, 26},
	{"ss", 0x1, 0, CPUID_EDX, 27},
	{"ht", 0x1, 0, CPUID_EDX, 28},
	{"tm", 0x1, 0, CPUID_EDX, 29},
	{"pni", 0x1, 0, CPUID_ECX, 0},
	{"pclmulqdq", 0x1, 0, CPUID_ECX, 1},
	{"dtes64", 0x1, 0, CPUID_ECX, 2},
	{"monitor", 0x1, 0, CPUID_ECX, 3},
	{"ds_cpl", 0x1, 0, CPUID_ECX, 4},
	{"vmx", 0x1, 0, CPUID_ECX, 5},
	{"smx", 0x1, 0, CPUID_ECX, 6},
	{"est", 0x1, 0, CPUID_ECX, 7},
	{"tm2", 0x1, 0, CPUID_ECX, 8},
	{"ssse3", 0x1, 0, CPUID_ECX, 9},
	{"cid", 0x1, 0, CPUID_ECX, 10},
	{"sdbg", 0x1, 0, CPUID_ECX, 11},
	{"fma", 0x1, 0, CPUID_ECX, 12},
	{"cx16", 0x1, 0, CPUID_ECX, 13},
	{"xtpr", 0x1, 0, CPUID_ECX, 14},
	{"pdcm", 0x1, 0, CPUID_ECX, 15},
	{"pcid", 0x1, 0, CPUID_ECX, 17},
	{"dca", 0x1, 0, CPUID_ECX, 18},
	{"sse4_1", 0x1, 0, CPUID_ECX, 19},
	{"sse4_2", 0x1, 0, CPUID_ECX, 20},
	{"x2apic", 0x1, 0, CPUID_ECX, 21},
	{"movbe", 0x1, 0, CPUID_ECX, 22},
	{"popcnt", 0x1, 0, CPUID_ECX, 23},
	{"tsc_deadline_timer", 0x1, 0, CPUID_ECX, 24},
	{"aes", 0x1, 0, CPUID_ECX, 25},
	{"xsave", 0x1, 0, CPUID_ECX, 26},
	{"avx", 0x1, 0, CPUID_ECX, 28},
	{"f16c", 0x1, 0, CPUID_ECX, 29},
	{"rdrand", 0x1, 0, CPUID_ECX, 30},
	{"dtherm", 0x6, 0, CPUID_EAX, 0},
	{"ida", 0x6, 0, CPUID_EAX, 1},
	{"arat", 0x6, 0, CPUID_EAX, 2},
	{"pln", 0x6, 0, CPUID_EAX, 4},
	{"pts", 0x6, 0, CPUID_EAX, 6},
	{"fsgsbase", 0x7, 0, CPUID_EBX, 0},
	{"tsc_adjust", 0x7, 0, CPUID_EBX, 1},
	{"sgx", 0x7, 0, CPUID_EBX, 2},
	{"bmi1", 0x7, 0, CPUID_EBX, 3},
	{"hle", 0x7, 0, CPUID_EBX, 4},
	{"avx2", 0x7, 0, CPUID_EBX, 5},
	{"smep", 0x7, 0, CPUID_EBX, 7},
	{"bmi2", 0x7, 0, CPUID_EBX, 8},
	{"erms", 0x7, 0, CPUID_EBX, 9},
	{"invpcid", 0x7, 0, CPUID_EBX, 10},
	{"rtm", 0x7, 0, CPUID_EBX, 11},
	{"cqm", 0x7, 0, CPUID_EBX, 12},
	{"mpx", 0x7, 0, CPUID_EBX, 14},
	{"rdt_a", 0x7, 0, CPUID_EBX, 15},
	{"avx512f", 0x7, 0, CPUID_EBX, 16},
	{"avx512dq", 0x7, 0, CPUID_EBX, 17},
	{"rdseed", 0x7, 0, CPUID_EBX, 18},
	{"adx", 0x7, 0, CPUID_EBX, 19},
	{"smap", 0x7, 0, CPUID_EBX, 20},
	{"avx512ifma", 0x7, 0, CPUID_EBX, 21},
	{"clflushopt", 0x7, 0, CPUID_EBX, 23},
	{"clwb", 0x7, 0, CPUID_EBX, 24},
	{"intel_pt", 0x7, 0, CPUID_EBX, 25},
	{"avx512pf", 0x7, 0, CPUID_EBX, 26},
	{"avx512er", 0x7, 0, CPUID_EBX, 27},
	{"avx512cd", 0x7, 0, CPUID_EBX, 28},
	{"sha_ni", 0x7, 0, CPUID_EBX, 29},
	{"avx512bw", 0x7, 0, CPUID_EBX, 30},
	{"avx512vl", 0x7, 0, CPUID_EBX, 31},
	{"prefetchwt1", 0x7, 0, CPUID_ECX, 0},
	{"avx512vbmi", 0x7, 0, CPUID_ECX, 1},
	{"umip", 0x7, 0, CPUID_ECX, 2},
	{"pku", 0x7, 0, CPUID_ECX, 3},
	{"waitpkg", 0x7, 0, CPUID_ECX, 5},
	{"avx512_vbmi2", 0x7, 0, CPUID_ECX, 6},
	{"shstk", 0x7, 0, CPUID_ECX, 7},
	{"gfni", 0x7, 0, CPUID_ECX, 8},
	{"vaes", 0x7, 0, CPUID_ECX, 9},
	{"vpclmulqdq", 0x7, 0, CPUID_ECX, 10},
	{"avx512_vnni", 0x7, 0, CPUID_ECX, 11},
	{"avx512_bitalg", 0x7, 0, CPUID_ECX, 12},
	{"tme", 0x7, 0, CPUID_ECX, 13},
	{"avx512_vpopcntdq", 0x7, 0, CPUID_ECX, 14},
	{"la57", 0x7, 0, CPUID_ECX, 16},
	{"rdpid", 0x7, 0, CPUID_ECX, 22},
	{"bus_lock_detect", 0x7, 0, CPUID_ECX, 24},
	{"cldemote", 0x7, 0, CPUID_ECX, 25},
	{"movdiri", 0x7, 0, CPUID_ECX, 27},
	{"movdir64b", 0x7, 0, CPUID_ECX, 28},
	{"enqcmd", 0x7, 0, CPUID_ECX, 29},
	{"pks", 0x7, 0, CPUID_ECX, 31},
	{"avx512_4vnniw", 0x7, 0, CPUID_EDX, 2},
	{"avx512_4fmaps", 0x7, 0, CPUID_EDX, 3},
	{"fsrm", 0x7, 0, CPUID_EDX, 4},
	{"avx512_vp2intersect", 0x7, 0, CPUID_EDX, 8},
	{"srbds_ctrl", 0x7, 0, CPUID_EDX, 9},
	{"md_clear", 0x7, 0, CPUID_EDX, 10},
	{"rtm_always_abort", 0x7, 0, CPUID_EDX, 11},
	{"tsx_force_abort", 0x7, 0, CPUID_EDX, 13},
	{"serialize", 0x7, 0, CPUID_EDX, 14},
	{"tsxldtrk", 0x7, 0, CPUID_EDX, 16},
	{"pconfig", 0x7, 0, CPUID_EDX, 18},
	{"arch_lbr", 0x7, 0, CPUID_EDX, 19},
	{"ibt", 0x7, 0, CPUID_EDX, 20},
	{"amx_bf16", 0x7, 0, CPUID_EDX, 22},
	{"avx512_fp16", 0x7, 0, CPUID_EDX, 23},
	{"amx_tile", 0x7, 0, CPUID_EDX, 24},
	{"amx_int8", 0x7, 0, CPUID_EDX, 25},
	{"spec_ctrl", 0x7, 0, CPUID_EDX, 26},
	{"intel_stibp", 0x7, 0, CPUID_EDX, 27},
	{"flush_l1d", 0x7, 0, CPUID_EDX, 28},
	{"arch_capabilities", 0x7, 0, CPUID_EDX, 29},
	{"core_capabilities", 0x7, 0, CPUID_EDX, 30},
	{"spec_ctrl_ssbd", 0x7, 0, CPUID_EDX, 31},
	{"avx_vnni", 0x7, 1, CPUID_EAX, 4},
	{"avx512_bf16", 0x7, 1, CPUID_EAX, 5},
	{"cmpccxadd", 0x7, 1, CPUID_EAX, 7},
	{"fzrm", 0x7, 1, CPUID_EAX, 10},
	{"fsrs", 0x7, 1, CPUID_EAX, 11},
	{"fsrc", 0x7, 1, CPUID_EAX, 12},
	{"amx_fp16", 0x7, 1, CPUID_EAX, 21},
	{"avx_ifma", 0x7, 1, CPUID_EAX, 23},
	{"lam", 0x7, 1, CPUID_EAX, 26},
	{"xsaveopt", 0xd, 1, CPUID_EAX, 0},
	{"xsavec", 0xd, 1, CPUID_EAX, 1},
	{"xgetbv1", 0xd, 1, CPUID_EAX, 2},
	{"xsaves", 0xd, 1, CPUID_EAX, 3},
	{"xfd", 0xd, 1, CPUID_EAX, 4},
	{"syscall", 0x80000001, 0, CPUID_EDX, 11},
	{"nx", 0x80000001, 0, CPUID_EDX, 20},
	{"mmxext", 0x80000001, 0, CPUID_EDX, 22},
	{"fxsr_opt", 0x80000001, 0, CPUID_EDX, 25},
	{"pdpe1gb", 0x80000001, 0, CPUID_EDX, 26},
	{"rdtscp", 0x80000001, 0, CPUID_EDX, 27},
	{"lm", 0x80000001, 0, CPUID_EDX, 29},
	{"3dnowext", 0x80000001, 0, CPUID_EDX, 30},
	{"3dnow", 0x80000001, 0, CPUID_EDX, 31},
	{"lahf_lm", 0x80000001, 0, CPUID_ECX, 0},
	{"cmp_legacy", 0x80000001, 0, CPUID_ECX, 1},
	{"svm", 0x80000001, 0, CPUID_ECX, 2},
	{"extapic", 0x80000001, 0, CPUID_ECX, 3},
	{"cr8_legacy", 0x80000001, 0, CPUID_ECX, 4},
	{"abm", 0x80000001, 0, CPUID_ECX, 5},
	{"sse4a", 0x80000001, 0, CPUID_ECX, 6},
	{"misalignsse", 0x80000001, 0, CPUID_ECX, 7},
	{"3dnowprefetch", 0x80000001, 0, CPUID_ECX, 8},
	{"osvw", 0x80000001, 0, CPUID_ECX, 9},
	{"ibs", 0x80000001, 0, CPUID_ECX, 10},
	{"xop", 0x80000001, 0, CPUID_ECX, 11},
	{"skinit", 0x80000001, 0, CPUID_ECX, 12},
	{"wdt", 0x80000001, 0, CPUID_ECX, 13},
	{"lwp", 0x80000001, 0, CPUID_ECX, 15},
	{"fma4", 0x80000001, 0, CPUID_ECX, 16},
	{"tce", 0x80000001, 0, CPUID_ECX, 17},
	{"nodeid_msr", 0x80000001, 0, CPUID_ECX, 19},
	{"tbm", 0x80000001, 0, CPUID_ECX, 21},
	{"topoext", 0x80000001, 0, CPUID_ECX, 22},
	{"perfctr_core", 0x80000001, 0, CPUID_ECX, 23},
	{"perfctr_nb", 0x80000001, 0, CPUID_ECX, 24},
	{"bpext", 0x80000001, 0, CPUID_ECX, 26},
	{"ptsc", 0x80000001, 0, CPUID_ECX, 27},
	{"perfctr_llc", 0x80000001, 0, CPUID_ECX, 28},
	{"mwaitx", 0x80000001, 0, CPUID_ECX, 29},
	{"constant_tsc", 0x80000007, 0, CPUID_EDX, 8},
	{"clzero", 0x80000008, 0, CPUID_EBX, 0},
	{"irperf", 0x80000008, 0, CPUID_EBX, 1},
	{"xsaveerptr", 0x80000008, 0, CPUID_EBX, 2},
	{"wbnoinvd", 0x80000008, 0, CPUID_EBX, 9},
	{"amd_ibpb", 0x80000008, 0, CPUID_EBX, 12},
	{"amd_ibrs", 0x80000008, 0, CPUID_EBX, 14},
	{"amd_stibp", 0x80000008, 0, CPUID_EBX, 15},
	{"amd_stibp_always_on", 0x80000008, 0, CPUID_EBX, 17},
	{"amd_ppin", 0x80000008, 0, CPUID_EBX, 23},
	{"amd_ssbd", 0x80000008, 0, CPUID_EBX, 24},
	{"virt_ssbd", 0x80000008, 0, CPUID_EBX, 25},
	{"amd_ssb_no", 0x80000008, 0, CPUID_EBX, 26},
	{"cppc", 0x80000008, 0, CPUID_EBX, 27},
	{"amd_psfd", 0x80000008, 0, CPUID_EBX, 28},
	{"npt", 0x8000000a, 0, CPUID_EDX, 0},
	{"lbrv", 0x8000000a, 0, CPUID_EDX, 1},
	{"svm_lock", 0x8000000a, 0, CPUID_EDX, 2},
	{"nrip_save", 0x8000000a, 0, CPUID_EDX, 3},
	{"tsc_scale", 0x8000000a, 0, CPUID_EDX, 4},
	{"vmcb_clean", 0x8000000a, 0, CPUID_EDX, 5},
	{"flushbyasid", 0x8000000a, 0, CPUID_EDX, 6},
	{"decodeassists", 0x8000000a, 0, CPUID_EDX, 7},
	{"pausefilter", 0x8000000a, 0, CPUID_EDX, 10},
	{"pfthreshold", 0x8000000a, 0, CPUID_EDX, 12},
	{"avic", 0x8000000a, 0, CPUID_EDX, 13},
	{"v_vmsave_vmload", 0x8000000a, 0, CPUID_EDX, 15},
	{"vgif", 0x8000000a, 0, CPUID_EDX, 16},
	{"vnmi", 0x8000000a, 0, CPUID_EDX, 25},
	{"sme", 0x8000001f, 0, CPUID_EAX, 0},
	{"sev", 0x8000001f, 0, CPUID_EAX, 1},
	{"sev_es", 0x8000001f, 0, CPUID_EAX, 3},
	{"kvmclock", 0x40000001, 0, CPUID_EAX, 0},
	{"kvm_nopiodelay", 0x40000001, 0, CPUID_EAX, 1},
	{"kvmclock2", 0x40000001, 0, CPUID_EAX, 3},
	{"kvm_asyncpf", 0x40000001, 0, CPUID_EAX, 4},
	{"kvm_steal_time", 0x40000001, 0, CPUID_EAX, 5},
	{"kvm_pv_eoi", 0x40000001, 0, CPUID_EAX, 6},
	{"kvm_pv_unhalt", 0x40000001, 0, CPUID_EAX, 7},
	{"kvm_pv_tlb_flush", 0x40000001, 0, CPUID_EAX, 9},
	{"kvm_asyncpf_vmexit", 0x40000001, 0, CPUID_EAX, 10},
	{"kvm_pv_ipi", 0x40000001, 0, CPUID_EAX, 11},
	{"kvm_poll_control", 0x40000001, 0, CPUID_EAX, 12},
	{"kvm_pv_sched_yield", 0x40000001, 0, CPUID_EAX, 13},
	{"kvm_asyncpf_int", 0x40000001, 0, CPUID_EAX, 14},
	{"kvm_msi_ext_dest_id", 0x40000001, 0, CPUID_EAX, 15},
	{"kvmclock_stable", 0x40000001, 0, CPUID_EAX, 24},
};
/* clang-format on */

#define NAME_MAX_BYTES 32
#define CLOSE_MAX      5 /* names that a message lists */

/* The number of letters to insert, delete or replace to make one of the other. */
static unsigned distance(const char *a, const char *b)
{
	unsigned row[NAME_MAX_BYTES + 1], n = (unsigned)strlen(b);

	if (n > NAME_MAX_BYTES || strlen(a) > NAME_MAX_BYTES)
		return NAME_MAX_BYTES;
	for (unsigned j = 0; j <= n; j++)
		row[j] = j;
	for (unsigned i = 0; a[i]; i++) {
		unsigned diagonal = row[0];

		row[0] = i + 1;
		for (unsigned j = 0; j < n; j++) {
			unsigned replace = diagonal + (a[i] != b[j]);

			diagonal = row[j + 1];
			row[j + 1] = MIN(replace, MIN(row[j], diagonal) + 1);
		}
	}
	return row[n];
}

static bool is_close(const char *name, const char *known, unsigned letters)
{
	if (letters)
		return distance(name, known) == letters;
	return strlen(name) >= 3 && strstr(known, name) && distance(name, known) > 2;
}

static int unknown(const char *name, struct err *err)
{
	/* Those one letter away, then for longer names two, then those that contain it. */
	const unsigned passes[] = {1, strlen(name) > 5 ? 2 : 1, 0};
	char list[CLOSE_MAX * (NAME_MAX_BYTES + 2)] = "";
	size_t len = 0, found = 0;

	for (size_t pass = 0; pass < ARRAY_LEN(passes); pass++) {
		if (pass && passes[pass] == passes[pass - 1])
			continue;
		for (size_t i = 0; i < ARRAY_LEN(features) && found < CLOSE_MAX; i++) {
			if (!is_close(name, features[i].name, passes[pass]))
				continue;
			len += (size_t)snprintf(list + len, sizeof(list) - len, "%s%s",
						found ? ", " : "", features[i].name);
			found++;
		}
	}
	return err_set(err, EINVAL,
		       "unknown CPU feature '%.*s'%s%s (names are those of /proc/cpuinfo)",
		       NAME_MAX_BYTES, name, found ? ": did you mean " : "", list);
}

int cpu_feature_find(const char *name, const struct cpu_feature **ret_feature, struct err *err)
{
	for (size_t i = 0; i < ARRAY_LEN(features); i++) {
		if (!strcmp(features[i].name, name)) {
			*ret_feature = &features[i];
			return 0;
		}
	}
	return unknown(name, err);
}

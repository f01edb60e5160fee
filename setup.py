"All settings live in settings.ini; edit there, not here."
import shlex
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).resolve().parent
config = ConfigParser(delimiters=['='])
config.read(here/'settings.ini', encoding='utf-8')
cfg = config['DEFAULT']
lib = cfg['lib_name']
statuses = ['1 - Planning', '2 - Pre-Alpha', '3 - Alpha', '4 - Beta', '5 - Production/Stable', '6 - Mature',
            '7 - Inactive']

extras = {k.removesuffix('_requirements'): shlex.split(v) for k, v in cfg.items() if k.endswith('_requirements')}
extras['all'] = sorted({requirement for name in cfg['all_extras'].split() for requirement in extras[name]})

setup(
    name=cfg['dist_name'], version=cfg['version'], description=cfg['description'],
    author=cfg['author'], author_email=cfg['author_email'], keywords=cfg['keywords'].split(),
    license='Apache-2.0', license_files=['LICENSE'], url=cfg['git_url'],
    packages=find_packages(str(here), include=[lib, lib+'.*']), include_package_data=False,
    package_data={lib: ['py.typed', *(f'shipped/*/*.{kind}' for kind in ('yaml', 'jsonl', 'js', 'css'))]},
    zip_safe=False,
    python_requires='>='+cfg['min_python'],
    install_requires=shlex.split(cfg['requirements']),
    extras_require=extras,
    long_description=(here/'README.md').read_text(encoding='utf-8'), long_description_content_type='text/markdown',
    entry_points={'console_scripts': [f'rsr={lib}.cli:main'], 'nbdev': [f'{lib}={lib}._modidx:d']},
    classifiers=[f'Development Status :: {statuses[int(cfg["status"])-1]}', f'Intended Audience :: {cfg["audience"]}',
                 f'Natural Language :: {cfg["language"]}',
                 'Topic :: Scientific/Engineering :: Artificial Intelligence', 'Typing :: Typed',
                 'Programming Language :: Python :: 3', *(f'Programming Language :: Python :: 3.{o}'
                                                          for o in range(10, 14))],
)
